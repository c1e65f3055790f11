"""`negdata import`: answers made elsewhere become the very run that `sample`, `grade` and `value` would have written.

The policy is made up and stands where the engines would, so that all commands are run and none needs vLLM.
"""

import asyncio
import itertools
import json
import random
from pathlib import Path

import pytest

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.datasets import arms
from openrlhf_negdata.datasets.memory import answered, build_rows
from openrlhf_negdata.datasets.rows import Valuing
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.grading import Grader
from openrlhf_negdata.records import Problem
from openrlhf_negdata.rollouts import engines
from openrlhf_negdata.rollouts.engines import Continuation
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.driver import ValueJob, ValueRun, value_answers
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS
from openrlhf_negdata.tasks import load

TASK = load("gsm8k")
PROBLEMS = [Problem(f"p{i}", f"What is {i} + 1?", str(i + 1), f"Count.\n#### {i + 1}") for i in range(8)]
OPTIONS = ["--task", "gsm8k", "--rollout.temperature", "0.7", "--rollout.max_new_tokens", "40"]


class MadeUp(engines.Engines):
    """Engines of a policy that writes up to three lines and an answer, which is right more often after `a`."""

    tokenizer = None

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def draw(self, request) -> list[Continuation]:
        rng, made = random.Random(request.seed), []
        for _ in range(request.n):
            lines = [rng.choice("ab") + "\n" for _ in range(rng.randrange(4))]
            number = rng.choice([1, 2, 3]) if "b\n" in lines else 1
            text = "".join(lines) + (f"#### {number}" if rng.random() < 0.9 else "so")
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            whole = rng.random() < 0.9
            made.append(Continuation(ids + [self.tokenizer.eos_token_id] * whole, "stop" if whole else "length"))
        return made

    def generate(self, requests, sampling, told=None):
        yield from map(self.draw, requests)

    def run(self, jobs, ahead, told=None):
        async def generate(request):
            return self.draw(request)

        with Grader(TASK) as grader:
            for job in jobs:
                yield asyncio.run(value_answers(job, generate, self.tokenizer, TASK, grader))


@pytest.fixture(scope="module")
def model(tokenizers, tmp_path_factory) -> Path:
    """A model folder, but for the weights."""
    folder = tmp_path_factory.mktemp("import") / "model"
    tokenizers["byte_bpe"].save_pretrained(folder)
    config = {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"none")
    return folder


@pytest.fixture(scope="module")
def runs(model, tokenizers, tmp_path_factory) -> Path:
    """The folder of ``graded`` and ``values``, made by the commands themselves."""
    root = tmp_path_factory.mktemp("runs")
    problems = [{"id": p.id, "question": p.question, "gold": "1", "solution": "Count.\n#### 1"} for p in PROBLEMS]
    write(root / "problems.jsonl", problems)
    MadeUp.tokenizer = tokenizers["byte_bpe"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "Engines", MadeUp)
        sampled = ["sample", *OPTIONS, "--problems", root / "problems.jsonl", "--model.model_name_or_path", model]
        run(*sampled, "--output", root / "traces")
        run("grade", "--input", root / "traces", "--output", root / "graded")
        valued = ["value", "--input", root / "graded", "--model.model_name_or_path", model]
        run(*valued, "--output", root / "values")
    return root


def run(*words: object) -> None:
    assert main(list(map(str, words))) == 0


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(folder: Path, *, text: bool = False, rollouts: bool = False) -> list[dict]:
    """The answers of a run as they would come from elsewhere, in another order."""
    source = Run.open(folder)
    problems = {problem.id: problem for problem in source.problems()}
    drawn: dict = {}
    for one in source.read("rollouts"):
        made = {"response_ids": one.token_ids, "seed": one.seed, "outcome": one.outcome, "finish_reason": "stop"}
        if one.outcome == "truncated":
            made["finish_reason"] = "length"
        drawn.setdefault((one.problem, tuple(one.prefix_ids)), []).append(made)
    values = {(one.problem, one.sample): one for one in source.read("values")}
    made = []
    for trace in source.read("traces"):
        problem = problems[trace.problem]
        row = {"problem": problem.id, "question": problem.question, "gold": problem.gold, "solution": problem.solution}
        row |= {"sample": trace.sample, "finish_reason": trace.finish_reason, "outcome": trace.outcome}
        row |= {"response": trace.text} if text else {"response_ids": trace.token_ids, "prompt_ids": trace.prompt_ids}
        if rollouts:
            ends = values[trace.problem, trace.sample].step_ends
            row["step_ends"] = ends
            row["rollouts"] = [drawn[trace.problem, tuple(trace.token_ids[:start])] for start in [0, *ends[:-1]]]
        made.append(row)
    # In their order, but so that those of one problem do not stand together.
    groups = [[row for row in made if row["problem"] == name] for name in problems]
    return [row for some in itertools.zip_longest(*groups) for row in some if row is not None]


def imported(model: Path, folder: Path, rows: list[dict], *more: object) -> Run:
    folder.mkdir(exist_ok=True)
    source = write(folder / "rows.jsonl", rows)
    run("import", *OPTIONS, "--input", source, "--model.model_name_or_path", model, "--output", folder / "run", *more)
    made = Run.open(folder / "run")
    counts = made.manifest["counts"]
    dropped = sum(count for name, count in counts.items() if name.startswith("dropped_"))
    assert counts["in"] == counts["traces"] + dropped
    listed = (folder / "run" / "dropped.jsonl").read_text().splitlines()
    assert len(listed) == dropped
    return made


def refused(capsys, model: Path, folder: Path, rows: list[dict], *more: object) -> str:
    source = write(folder / "bad.jsonl", rows)
    words = ["import", *OPTIONS, "--input", source, "--model.model_name_or_path", model, "--output", folder / "no"]
    capsys.readouterr()
    assert main([*map(str, words), *map(str, more)]) == 2
    assert not (folder / "no").exists()
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


def tables(made: Run, *names: str) -> dict:
    return {name: sorted(map(repr, made.read(name))) for name in names}


@pytest.mark.parametrize("text", [False, True])
def test_imported_answers_are_those_of_the_graded_run_and_give_the_same_rows(model, runs, tmp_path, text):
    graded = Run.open(runs / "graded")
    rows = rows_of(runs / "graded", text=text)
    made = imported(model, tmp_path / "in", rows)
    expected = tables(graded, "traces")["traces"]
    assert tables(made, "traces")["traces"] == expected
    assert {problem.id: problem for problem in made.problems()} == {p.id: p for p in graded.problems()}
    assert made.problems() == graded.problems()
    for arm in ("rft", "dpo", "dpo-edit-distance", "sft"):
        found = []
        for source, name in ((runs / "graded", "made"), (made.path, "imported")):
            output = tmp_path / f"{arm}-{name}.jsonl"
            run("build", arm, "--input", source, "--output", output)
            found.append(output.read_bytes())
        assert found[0] == found[1] != b""


def test_imported_step_values_and_rollouts_give_the_same_rows_in_every_arm(model, runs, tmp_path):
    made = imported(model, tmp_path / "in", rows_of(runs / "values", rollouts=True))
    values = Run.open(runs / "values")
    assert tables(made, "traces", "values", "rollouts") == tables(values, "traces", "values", "rollouts")
    flags = {"siblings": ["--min_rollouts", "2"], "theorem": ["--min_rollouts", "2"], "spurious": ["--share", "0"]}
    flags["spurious"] += ["--per_problem", "1"]
    for arm in arms.names():
        found = []
        for source, name in ((runs / "values", "made"), (made.path, "imported")):
            output = tmp_path / f"{arm}-{name}.jsonl"
            run("build", arm, "--input", source, "--output", output, *flags.get(arm, ()))
            found.append(output.read_bytes())
        assert found[0] == found[1] != b"", arm


def test_arms_of_objects_in_memory_are_those_of_the_command(runs, tokenizers, tmp_path):
    """The jobs are valued again, as a Python user would do it, by the same policy."""
    tokenizer = tokenizers["byte_bpe"]
    values = Run.open(runs / "values")
    settings = values.manifest["settings"]
    budget = Budget(**settings["budget"])
    jobs, known = [], []
    groups = [list(some) for _, some in itertools.groupby(values.read("traces"), key=lambda trace: trace.problem)]
    run_of = ValueRun(
        **{"task": "gsm8k", "identity": "gsm8k", "timeout": 10.0, "tokenizer": "", "segmentation": PRESETS["task"]},
        **{"model": settings["input"]["input"]["model"], "sampling": engines.Sampling(0.7, 1.0, -1), "seed": 0},
        **{"max_tokens": 40, "budget": budget},
    )
    problems = {problem.id: problem for problem in values.problems()}
    for traces in groups:
        answers = [(trace.token_ids, trace.outcome) for trace in traces]
        jobs.append(ValueJob(run_of, traces[0].prompt_ids, problems[traces[0].problem].gold, answers))
    for traces, job, result in zip(groups, jobs, MadeUp().run(jobs, 1), strict=True):
        known.append(answered(problems[traces[0].problem], job.prompt_ids, job.answers, tokenizer, (job, result)))
    flags = {"siblings": {"min_rollouts": 2}, "theorem": {"min_rollouts": 2}}
    for arm in ("shared-prefix", "siblings", "theorem", "prm"):
        made, _ = build_rows(arm, known, tokenizer, TASK, Valuing(budget), **flags.get(arm, {}))
        words = [word for flag, value in flags.get(arm, {}).items() for word in (f"--{flag}", value)]
        run("build", arm, "--input", runs / "values", "--output", tmp_path / f"{arm}.jsonl", *words)
        expected = [json.loads(line) for line in (tmp_path / f"{arm}.jsonl").read_text().splitlines()]
        assert len(made) == len(expected) > 0, arm
        # The side that is blamed; which right rollout is chosen is drawn by the number of the answer.
        ids = {"shared-prefix": ("problem", "prompt_ids", "rejected_ids"), "prm": ("prompt", "completions", "labels")}
        for name in ids.get(arm, ("problem", "prompt_ids", "chosen_ids", "rejected_ids")):
            assert sorted(repr(row[name]) for row in made) == sorted(repr(row[name]) for row in expected), (arm, name)


def test_what_an_arm_in_memory_lacks_or_does_not_know_is_an_error(tokenizers):
    tokenizer = tokenizers["byte_bpe"]
    known = [answered(PROBLEMS[0], [1], [([2, 0], "correct"), ([3, 0], "wrong")], tokenizer)]
    rows, (account,) = build_rows("dpo", known, tokenizer, TASK)
    assert [(row["chosen_ids"], row["rejected_ids"]) for row in rows] == [([2, 0], [3, 0])]
    assert (account.kept, account.total) == (2, 2)
    for arm, flags, says in (
        ("siblings", {}, "no step values"),
        ("dpo", {"per_answer": 1}, "dpo has no per_answer"),
        ("dpo", {"per_problem": -2}, "must be at least -1"),
        ("algorithm1", {"pit": "worst"}, "--pit must be one of lowest_q"),
    ):
        with pytest.raises(UserError, match=says):
            build_rows(arm, known, tokenizer, TASK, **flags)


def test_value_goes_on_from_imported_answers_as_from_sampled_ones(model, runs, tmp_path, monkeypatch):
    made = imported(model, tmp_path / "in", rows_of(runs / "graded"))
    monkeypatch.setattr(engines, "Engines", MadeUp)
    valued = ["value", "--input", made.path, "--model.model_name_or_path", model]
    run(*valued, "--output", tmp_path / "values")
    names = ("traces", "values", "rollouts")
    assert tables(Run.open(tmp_path / "values"), *names) == tables(Run.open(runs / "values"), *names)


QUESTION = {"question": "What is 0 + 1?", "gold": "1"}


def reasons(made: Run) -> dict[str, int]:
    counts = made.manifest["counts"]
    return {name.removeprefix("dropped_"): count for name, count in counts.items() if name.startswith("dropped_")}


def test_what_does_not_survive_the_round_trip_or_no_policy_sampled_is_dropped_and_counted(model, tokenizers, tmp_path):
    def ids(text):
        return tokenizers["byte_bpe"](text)["input_ids"]

    eos = tokenizers["byte_bpe"].eos_token_id
    rows = {
        "kept": {"response": "a\n#### 1"},
        "text_changed": {"response": "a</s>\n#### 1"},
        "end_token_inside": {"response_ids": [*ids("#### 1"), eos, eos]},
        "end_unknown": {"response_ids": ids("a\n")},
        "unknown_ids": {"response_ids": [99999, eos]},
        "empty": {"response": " \n"},
        "over_long": {"response": "a\n" * 40, "finish_reason": "length"},
        "other_prompt": {"response": "#### 1", "prompt": "What is 0 + 1?"},
    }
    made = imported(model, tmp_path / "in", [QUESTION | row for row in rows.values()])
    assert reasons(made) == {reason: 1 for reason in rows if reason != "kept"}
    (trace,) = made.read("traces")
    assert (trace.text, trace.token_ids) == ("a\n#### 1", [*ids("a\n#### 1"), eos])
    listed = [json.loads(line) for line in (made.path / "dropped.jsonl").read_text().splitlines()]
    assert listed == [{"line": line, "reason": reason} for line, reason in enumerate(rows, start=1) if line > 1]


def test_an_answer_that_ran_out_of_tokens_gets_no_end_token_and_text_and_ids_must_agree(model, tokenizers, tmp_path):
    ids = tokenizers["byte_bpe"]("a\nb\n")["input_ids"]
    rows = [
        {"response": "a\nb\n", "finish_reason": "length"},
        {"response": "a\nb\n", "response_ids": ids, "outcome": "truncated"},
        {"response": "a\nc\n", "response_ids": ids, "outcome": "truncated"},
    ]
    made = imported(model, tmp_path / "in", [QUESTION | row for row in rows])
    assert [(trace.token_ids, trace.outcome) for trace in made.read("traces")] == [(ids, "truncated")] * 2
    assert reasons(made) == {"text_changed": 1}


def test_a_whole_answer_ends_as_the_chat_template_ends_one(model, tokenizers, tmp_path):
    from shutil import copytree

    chat = tmp_path / "chat"
    copytree(model, chat)
    tokenizer = tokenizers["byte_bpe"].from_pretrained(chat)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<end>{% endfor %}assistant: "
    tokenizer.save_pretrained(chat)
    end = tokenizer.convert_tokens_to_ids("<end>")
    (chat / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, tokenizer.eos_token_id]}))
    rows = [QUESTION | {"response": "#### 1"}, {"prompt": "Say 1.", "gold": "1", "response": "#### 1"}]
    for number, row in enumerate(rows):
        made = imported(chat, tmp_path / str(number), [row], "--data.apply_chat_template")
        (trace,) = made.read("traces")
        assert trace.token_ids == [*tokenizer("#### 1")["input_ids"], end]
        asked = tokenizer.decode(trace.prompt_ids)
        assert asked.startswith("user: " + (TASK.chat_prompt(QUESTION["question"]), "Say 1.<end>")[number])
    (tmp_path / "problems.jsonl").write_text(json.dumps(QUESTION | {"solution": "#### 1"}))
    words = f"build sft --task {TASK.name} --problems_from {tmp_path}/problems.jsonl --tokenizer {chat}"
    for flag, last in (("--data.apply_chat_template", end), ("", tokenizer.eos_token_id)):
        output = tmp_path / f"sft{flag}.jsonl"
        assert main([*words.split(), "--output", str(output), *flag.split()]) == 0
        assert json.loads(output.read_text())["response_ids"] == [*tokenizer("#### 1")["input_ids"], last]


def test_the_grader_decides_and_its_disagreement_with_the_file_is_counted_and_said(model, tmp_path, capsys):
    rows = [
        QUESTION | {"response": "#### 1", "correct": True},
        QUESTION | {"response": "#### 2", "correct": True},
        QUESTION | {"response": "a\n#### 1", "outcome": "wrong"},
        QUESTION | {"response": "so", "outcome": "wrong"},
    ]
    made = imported(model, tmp_path / "in", rows)
    assert [trace.outcome for trace in made.read("traces")] == ["correct", "wrong", "correct", "no_answer"]
    counts = made.manifest["counts"]
    assert (counts["said_right_graded_not"], counts["said_wrong_graded_right"]) == (1, 1)
    told = capsys.readouterr().err
    assert (
        "WARNING: 1 responses are said to be right, and the grader of the task finds them not, such as in row 2"
        in told
    )
    assert "finds them right, such as in row 3" in told


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"response": 1}, "response is 1, not text"),
        ({}, "no field 'response' (text) or 'response_ids'"),
        ({"response_ids": [1, True]}, "response_ids is [1, True], not a list of int"),
        ({"response": "a", "finish_reason": "eos"}, "finish_reason 'eos' is none of stop, length"),
        ({"response": "a", "outcome": "right"}, "outcome 'right' is none of correct"),
        ({"response": "a", "outcome": "wrong", "correct": True}, "outcome is wrong, and correct is True"),
        ({"response": "a", "gold": "2"}, "problem '1' has another question, gold or solution than in an earlier row"),
        ({"response": "a", "sample": 0}, "two answers to problem '1' are sample 0"),
        ({"response": "a", "step_correct": [1], "step_count": 0}, "step_count is [0]: of 1 or more rollouts"),
        ({"response": "a", "step_correct": [2], "step_count": 1}, "step_correct [2] is not of the step_count [1]"),
        ({"response": "a", "step_correct": [1], "step_count": 1, "rollouts": [["a"]]}, "step_correct and rollouts"),
        ({"response": "a", "rollouts": []}, "from before each step there must be one or more"),
        ({"response": "a", "rollouts": [[]]}, "from before each step there must be one or more"),
        ({"response": "a", "prompt": [{"role": "user"}]}, "prompt is [{'role': 'user'}], not a list of int"),
    ],
)
def test_a_bad_row_is_one_line_that_names_it(model, tmp_path, capsys, row, says):
    told = refused(capsys, model, tmp_path, [QUESTION | {"response": "#### 1"}, QUESTION | row])
    assert told.count("\n") == 1
    assert "bad.jsonl:2: malformed row: " in told
    assert says in told


def test_bad_rows_are_left_out_where_that_is_asked_for_and_counted(model, tmp_path):
    rows = [QUESTION | {"response": "#### 1"}, QUESTION | {"response": 1}]
    made = imported(model, tmp_path / "in", rows, "--skip_bad_rows")
    assert reasons(made) == {"malformed": 1}


def test_nothing_left_is_an_error_that_says_what_became_of_the_answers(model, tmp_path, capsys):
    told = refused(capsys, model, tmp_path, [QUESTION | {"response": "a</s>b"}])
    assert "no answer is left (dropped: {'text_changed': 1})" in told
    assert "row 1: the tokenizer makes other text of it" in told


STEPS = ["a\n", "b\n", "#### 2"]


def test_texts_of_steps_and_counted_rollouts_make_step_values(model, tokenizers, tmp_path, capsys):
    rows = [QUESTION | {"steps": STEPS, "step_correct": [3, 1, 0], "step_count": 4, "correct": False}]
    rows += [QUESTION | {"response": "#### 1"}]
    made = imported(model, tmp_path / "in", rows)
    assert reasons(made) == {"without_step_values": 1}
    (values,) = made.read("values")
    ids = [len(tokenizers["byte_bpe"]("".join(STEPS[: i + 1]))["input_ids"]) for i in range(3)]
    assert (values.step_ends, values.correct, values.count) == ([*ids[:2], ids[2] + 1], [3, 1, 0], [4, 4, 4])
    assert made.manifest["settings"]["budget"]["n_rollouts"] == 4
    run("show", made.path)
    told = capsys.readouterr().out
    assert "negdata import" in told
    assert "without_step_values" in told


@pytest.mark.parametrize(
    "row",
    [
        {"steps": ["a\nb\n", "#### 2"], "step_correct": [3, 1], "step_count": 4},
        {"steps": STEPS, "step_correct": [3, 1], "step_count": 4},
        {"response": "".join(STEPS), "step_correct": [3, 1, 0, 0], "step_count": 4},
    ],
)
def test_steps_that_are_not_those_of_steps_are_dropped(model, tmp_path, capsys, row):
    assert "dropped: {'other_steps': 1}" in refused(capsys, model, tmp_path, [QUESTION | row])


def test_rollouts_that_are_text_are_graded_and_those_of_a_shared_prefix_put_together_once(model, tmp_path):
    first = ["#### 1", "b\n#### 2"]
    rows = [
        QUESTION | {"steps": ["a\n", "#### 2"], "rollouts": [first, ["#### 1"]]},
        QUESTION | {"steps": ["b\n", "#### 2"], "rollouts": [first, ["#### 2"]]},
        QUESTION | {"steps": ["a\n", "#### 1"], "rollouts": [["#### 1"] * 3, ["#### 1"]]},
    ]
    made = imported(model, tmp_path / "in", rows)
    values = {one.sample: (one.correct, one.count) for one in made.read("values")}
    assert values == {0: ([4, 1], [5, 1]), 1: ([4, 0], [5, 1]), 2: ([4, 1], [5, 1])}
    assert sum(1 for _ in made.read("rollouts")) == 5 + 1 + 1


def test_rows_may_hold_lists_of_answers_and_name_problems_of_another_file(model, tmp_path):
    problems = write(tmp_path / "problems.jsonl", [{"id": "p", **QUESTION}, {"id": "q", "question": "?", "gold": "2"}])
    rows = [{"problem": "q", "response": ["#### 1", "#### 2"], "correct": [False, True]}]
    rows += [{"question": QUESTION["question"], "response": "#### 1"}]
    made = imported(model, tmp_path / "in", rows, "--problems", problems)
    found = [(trace.problem, trace.sample, trace.outcome) for trace in made.read("traces")]
    assert found == [("p", 0, "correct"), ("q", 0, "wrong"), ("q", 1, "correct")]


def test_import_that_is_done_does_nothing_and_other_answers_are_refused(model, tmp_path, capsys):
    rows = [QUESTION | {"response": "#### 1"}]
    folder = imported(model, tmp_path / "in", rows).path
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    imported(model, tmp_path / "in", rows)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    source = write(tmp_path / "in" / "rows.jsonl", [QUESTION | {"response": "#### 2"}])
    words = ["import", *OPTIONS, "--input", source, "--model.model_name_or_path", model, "--output", folder]
    assert main([*map(str, words)]) == 2
    assert "was made with imported = " in capsys.readouterr().err


def test_arms_of_next_steps_say_that_counted_rollouts_are_none(model, tmp_path, capsys):
    rows = [QUESTION | {"steps": STEPS, "step_correct": [3, 1, 0], "step_count": 4}]
    made = imported(model, tmp_path / "in", rows)
    words = ["build", "siblings", "--input", made.path, "--output", tmp_path / "set.jsonl"]
    assert main([*map(str, words)]) == 2
    assert "has step values but none of the rollouts behind them" in capsys.readouterr().err
