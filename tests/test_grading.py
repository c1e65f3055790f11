"""Grading: one grade a row in order, whatever a grader does and whoever kills it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.grading import AHEAD, LONGEST_RESPONSE, Grader, grade_rows
from openrlhf_negdata.records import CORRECT, Graded
from openrlhf_negdata.tasks import Task, load

# Its exact value has more digits than there are atoms to write them with; no signal interrupts the attempt.
HANGS = r"\boxed{5^{5^{5^{5^{5}}}}}"
SLOW = str(Path(__file__).with_name("slow_task.py"))
SOLUTIONS = Path(__file__).with_name("data") / "gsm8k" / "model_solutions.jsonl"


class Failing(Task):
    name = "failing"

    def grade(self, gold: str, response: str) -> Graded:
        raise ZeroDivisionError


def outcomes(task: Task, rows: list, **options) -> list[str]:
    return [graded.outcome for graded in grade_rows(task, rows, **options)]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found if alive(int(child))]


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: not alive(process))


def wait_for(condition, seconds: float = 20):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "this never came"
        time.sleep(0.01)
    return result


def test_a_row_that_hangs_is_timed_out_within_its_limit_and_the_others_are_graded():
    start = time.monotonic()
    rows = [
        ("1/2", r"\boxed{0.5}", None),
        ("5", HANGS, "stop"),
        ("5", r"\boxed{6}", "stop"),
        ("5", r"\boxed{5.0}", ""),
    ]
    assert outcomes(load("math"), rows, timeout=2, workers=2) == ["correct", "timed_out", "wrong", "correct"]
    assert time.monotonic() - start < 8


def test_the_last_balanced_box_is_the_answer_and_gold_comes_first():
    rows = [
        ("13", r"\boxed{12} wait, \boxed{13}", "stop"),
        ("12", r"\boxed{12} wait, \boxed{13}", "stop"),
        ("13", r"\boxed{13} wait, \boxed{12", "stop"),
        (r"\frac{1}{2}", r"\boxed{3}, no: \boxed{\frac{1}{2}}.", "stop"),
        # math-verify's comparison is not symmetric: a pair may answer an inequality, an inequality no pair.
        ("1<x<2", r"\boxed{(1,2)}", "stop"),
        ("(1,2)", r"\boxed{1<x<2}", "stop"),
    ]
    assert outcomes(load("math"), rows, workers=1) == ["correct", "wrong", "correct", "correct", "correct", "wrong"]


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_a_truncated_response_is_never_right_and_not_shown_to_the_grader(name):
    rows = [("5", r"\boxed{5}", "length"), ("5", r"\boxed{5}", "stop"), ("5", HANGS, "length")]
    assert outcomes(load(name), rows, workers=1) == ["truncated", "correct", "truncated"]


def test_a_grader_that_raises_or_dies_has_failed_and_the_others_are_graded(caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("SHOWN", str(tmp_path / "shown"))
    # Twenty at a time: some are sent to a worker together, and each is graded whatever its neighbours do.
    said = [word for n in range(20) for word in ("a", f"raise {n}", f"die {n}", f"b {n}")]
    expected = ["correct", "failed", "failed", "wrong"] * 20
    assert outcomes(load(SLOW), [("a", word, None) for word in said], workers=2) == expected
    assert "SystemExit('no')" in caplog.text
    assert "its worker died, twice" in caplog.text
    shown = Counter((tmp_path / "shown").read_text().splitlines())
    assert (shown["raise 7"], shown["die 7"], shown["b 7"]) == (1, 2, 1), "what dies is tried again, nothing else is"
    assert outcomes(Failing(), [("a", "a", None)]) == ["failed"]


def test_a_row_whose_worker_is_killed_is_graded_once_more(tmp_path, caplog):
    pids = tmp_path / "pids"
    with Grader(load(SLOW), workers=2) as grader:
        future = grader.submit(f"wait {pids}", f"wait {pids}", None)
        kill(int(wait_for(lambda: pids.exists() and pids.read_text())))
        assert future.result(timeout=20).outcome == "correct"
    assert not caplog.text


def test_workers_killed_with_nothing_to_do_cost_no_row_nor_does_the_process_they_are_forked_from(caplog):
    with Grader(load(SLOW), workers=2) as grader:
        for number in range(2):
            both = [grader.submit(f"nap {number}{side}", f"nap {number}{side}", None) for side in "ab"]
            assert [future.result(timeout=20).outcome for future in both] == ["correct"] * 2
            assert len(grader._idle) == 2
            for worker in children(grader._server._process.pid):
                kill(worker)
        kill(grader._server._process.pid)
        assert grader.submit("a", "a", None).result(timeout=20).outcome == "correct"
    assert not caplog.text


def test_grades_of_real_answers_are_the_same_with_workers_killed_meanwhile(caplog):
    gsm8k, math = load("gsm8k"), load("math")
    rows = []
    for line in SOLUTIONS.read_text(encoding="utf-8").splitlines():
        published = json.loads(line)
        gold = published["ground_truth"].rpartition("A: ")[2]
        rows.append((gold, f"\\boxed{{{gsm8k.extract(published['solution']) or 'none'}}}", None))
    undisturbed = list(grade_rows(math, rows, workers=2))
    assert {graded.outcome for graded in undisturbed} == {"correct", "wrong"}
    with Grader(math, workers=2) as grader:
        disturbed = []
        # All of a part is graded before the next kill: two that follow at once may hit one row, which then fails.
        for part in (rows[:50], rows[50:100], rows[100:]):
            futures = [grader.submit(*row) for row in part]
            for number, future in enumerate(futures):
                disturbed.append(future.result(timeout=60))
                if number == 10:
                    kill(children(grader._server._process.pid)[0])
    assert disturbed == undisturbed
    assert not caplog.text


@settings(max_examples=10, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from(["stop", "length", None])),
        max_size=300,
    )
)
def test_one_grade_a_row_in_order(rows):
    expected = ["truncated" if end == "length" else "correct" if gold == said else "wrong" for gold, said, end in rows]
    assert outcomes(load(SLOW), rows, workers=2) == expected


def test_equal_work_is_done_once_and_a_long_response_is_shown_from_its_end(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOWN", str(tmp_path / "shown"))
    rows = [("a", "a", None)] * 400 + [("a", "x" * 100_000, None)]
    assert outcomes(load(SLOW), rows, workers=2) == ["correct"] * 400 + ["wrong"]
    assert sorted(map(len, (tmp_path / "shown").read_text().splitlines())) == [1, LONGEST_RESPONSE]
    rows = [("5", r"\boxed{5}" + " " * LONGEST_RESPONSE, None), ("5", " " * LONGEST_RESPONSE + r"\boxed{5}", None)]
    assert outcomes(load("math"), rows, workers=1) == ["no_answer", "correct"]


def test_rows_are_taken_as_they_are_needed():
    taken = []

    def rows():
        for number in range(10_000):
            taken.append(number)
            yield "a", str(number), None

    graded = grade_rows(load(SLOW), rows(), workers=1)
    next(graded)
    assert len(taken) <= AHEAD
    graded.close()
    taken.clear()
    next(grade_rows(load("gsm8k"), rows()))
    assert taken == [0]


def test_grades_are_awaited_and_equal_work_is_shared_but_not_cancelled_for_others():
    async def main():
        with Grader(load("math"), timeout=2, workers=2) as grader:
            hangs = grader.submit("5", HANGS, "stop")
            assert grader.submit("5", "other words, " + HANGS, None) is hangs
            given_up = asyncio.wrap_future(hangs)
            right = [("5", rf"\boxed{{{number}}}", None) for number in range(8)]
            graded = await asyncio.gather(*(asyncio.wrap_future(grader.submit(*row)) for row in right))
            given_up.cancel()
            return graded, await asyncio.wrap_future(hangs)

    graded, hung = asyncio.run(main())
    assert [grade.outcome for grade in graded] == ["wrong"] * 5 + ["correct"] + ["wrong"] * 2
    assert hung == Graded("timed_out", None)


def test_closing_kills_at_once_and_leaves_no_future_unresolved():
    grader = Grader(load("math"), timeout=60, workers=1)
    futures: list[Future] = [grader.submit(str(number), HANGS, None) for number in range(3)]
    server = wait_for(lambda: grader._server)._process.pid
    (worker,) = wait_for(lambda: children(server))
    start = time.monotonic()
    grader.close()
    assert time.monotonic() - start < 5
    for future in futures:
        assert isinstance(future.exception(timeout=0), CancelledError)
    wait_for(lambda: not alive(server) and not alive(worker))
    with pytest.raises(RuntimeError):
        grader.submit("5", HANGS, None)


def test_a_task_that_cannot_be_loaded_in_a_worker_is_an_error_not_a_grade(tmp_path, capfd):
    path = tmp_path / "moved.py"
    path.write_text(Path(SLOW).read_text())
    task = load(str(path))
    path.unlink()
    with pytest.raises(UserError, match="no worker can grade slow"):
        outcomes(task, [("a", "a", None)])
    assert f"no such task file: {path}" in capfd.readouterr().err


def test_tasks_and_grading_import_nothing_heavy_nor_do_the_workers():
    code = (
        "import sys, openrlhf_negdata.grading, openrlhf_negdata.grading.reward; "
        "from openrlhf_negdata.tasks import BUILT_IN, load; tasks = [load(name) for name in BUILT_IN]; "
        "print(*{'torch', 'vllm', 'ray', 'openrlhf', 'transformers'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
    )
    assert next(grade_rows(load(SLOW), [("a", "modules", None)], workers=1)) == Graded(CORRECT, "False")


@pytest.mark.parametrize("row", [HANGS, r"\boxed{6}"])
def test_no_worker_outlives_a_script_that_was_killed(row, tmp_path):
    # A script without a main guard: the workers must not run it again.
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "from openrlhf_negdata.grading import Grader\n"
        "from openrlhf_negdata.tasks import load\n"
        "grader = Grader(load('math'), timeout=600, workers=1)\n"
        "grader.submit('5', r'\\boxed{7}', None).result()\n"
        f"future = grader.submit('5', {row!r}, None)\n"
        "time.sleep(0.5)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    # The fork server and the worker hold the pipe open: communicate returns when both are gone.
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    process.communicate(timeout=30)
    assert process.returncode == -9


class Spoken(type(load("math"))):
    """A subclass that grades by more than what it inherits as the answer."""

    def grade(self, gold: str, response: str) -> Graded:
        return Graded(CORRECT if response.startswith("yes") else "wrong", None)


def test_grades_of_a_subclass_do_not_depend_on_the_order_of_the_rows():
    rows = [("5", r"yes \boxed{5}", None), ("5", r"no \boxed{5}", None)]
    with Grader(Spoken(), workers=1) as grader:
        keys = [grader.submit(*row) for row in rows]
        assert len({id(key) for key in keys}) == 2


OWN = """
from openrlhf_negdata.tasks import Graded, Task
class Own(Task):
    name = "own"
    slow_grader = {slow}
{body}
task = Own()
"""
GRADE = "    def grade(self, gold, response):\n        "


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (GRADE + "return Graded('right', None)", "Graded(outcome='right', answer=None): it must return Graded"),
        (GRADE + "return True", "returned"),
        (GRADE + "return Graded('correct', 5)", "the answer text or None"),
        (GRADE + "raise KeyError('gold')", "raised on each of 3 answers, at last KeyError('gold')"),
        ("    pass", "has no grader"),
    ],
)
def test_a_grader_that_cannot_be_right_is_an_error_not_a_file_of_lost_rows(slow, body, says, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN.format(slow=slow, body=body))
    (tmp_path / "in.jsonl").write_text("".join(f'{{"gold": "a", "response": "{word}"}}\n' for word in "abc"))
    files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["grade", "--task", str(tmp_path / "own.py"), *files]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert says in message
    assert "own.py" in message
    assert not (tmp_path / "out.jsonl").exists()


def test_a_gold_answer_that_cannot_be_read_is_an_error_with_its_line(tmp_path, capsys):
    rows = ['{"gold": "9 * 2 = 18\\n#### 18", "response": "#### 18"}', '{"gold": "eighteen", "response": "#### 18"}']
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["grade", "--task", "gsm8k", *files]) == 2
    assert "in.jsonl:2: malformed row: the gold answer 'eighteen' is not a number" in capsys.readouterr().err
    (tmp_path / "in.jsonl").write_text(rows[0])
    assert main(["grade", "--task", "gsm8k", *files]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["outcome"] == "correct"


@pytest.mark.parametrize("reason", ["length", "abort", "error", "repetition"])
def test_an_answer_that_was_not_finished_is_neither_right_nor_wrong(reason):
    rows = [("18", "#### 18", reason), ("18", "#### 17", reason), ("18", "#### 18", "stop"), ("18", "#### 17", None)]
    assert outcomes(load("gsm8k"), rows) == ["truncated", "truncated", "correct", "wrong"]
