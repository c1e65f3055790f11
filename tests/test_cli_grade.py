"""`negdata grade`: one row out for one row in, resumable, and one line for a user's mistake."""

import json
import pickle
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.records import Problem, Trace
from openrlhf_negdata.rollouts.store import Run

ROWS = [
    {"gold": "18", "response": "so\n#### 18", "extra": {"kept": [1, None]}, "id": "é"},
    {"gold": 18, "response": "#### 17", "finish_reason": "stop"},
    {"gold": "18", "response": "#### 18", "finish_reason": "length"},
    {"gold": "18", "response": "get 18 apples, and", "finish_reason": None},
    {"gold": "5", "response": "#### 5", "outcome": "wrong", "answer": "from before"},
]
OUTCOMES = ["correct", "wrong", "truncated", "no_answer", "correct"]
ANSWERS = ["18", "17", None, None, "5"]


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def grade(*flags: object) -> int:
    return main(["grade", *map(str, flags)])


def sampled(path: Path, **settings: object) -> Path:
    """A run as `negdata sample` leaves it: two shards, one problem each, the rows of ROWS as traces."""
    problems = [Problem("a", "q", "18"), Problem("b", "q", "5")]
    run = Run.create(path, "sample", {"task": "gsm8k", "seed": 0, **settings}, problems)
    tokenizer = Tokenizer(models.WordLevel({"</s>": 0}))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(path / "tokenizer")
    traces = [
        Trace("a" if number < 4 else "b", number, [1, 2], [3, number], row["response"], row.get("finish_reason"))
        for number, row in enumerate(ROWS)
    ]
    run.expect(2)
    run.write("traces", 0, traces[:4])
    run.write("traces", 1, traces[4:])
    run.finish({"traces": 5})
    return path


def test_every_row_comes_back_in_order_with_its_outcome_and_all_its_fields(tmp_path, capsys):
    source, target = write(tmp_path / "in.jsonl", ROWS), tmp_path / "new" / "out.jsonl"
    assert grade("--task", "gsm8k", "--input", source, "--output", target) == 0
    expected = [
        {**row, "outcome": outcome, "answer": answer}
        for row, outcome, answer in zip(ROWS, OUTCOMES, ANSWERS, strict=True)
    ]
    assert read(target) == expected
    assert "5 graded: 2 correct, 1 wrong, 1 truncated, 1 no_answer, 0 timed_out, 0 failed" in capsys.readouterr().out
    first = target.read_bytes()
    assert grade("--task", "gsm8k", "--input", source, "--output", target) == 0
    assert target.read_bytes() == first


def test_a_row_of_several_responses_gets_an_outcome_for_each(tmp_path, capsys):
    rows = [
        {"gold": "2", "response": ["#### 2", "#### 3", "#### 2"], "finish_reason": ["stop", "stop", "length"]},
        {"gold": "2", "response": []},
        {"gold": "2", "response": "#### 2"},
        {"gold": "2", "response": ["so"]},
    ]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert grade("--task", "gsm8k", "--input", source, "--output", target) == 0
    assert [(row["outcome"], row["answer"]) for row in read(target)] == [
        (["correct", "wrong", "truncated"], ["2", "3", None]),
        ([], []),
        ("correct", "2"),
        (["no_answer"], [None]),
    ]
    assert "5 graded: 2 correct, 1 wrong, 1 truncated, 1 no_answer" in capsys.readouterr().out


def test_a_slow_task_grades_a_file_too(tmp_path):
    rows = [{"gold": "1/2", "response": r"\boxed{0.5}"}, {"gold": "2", "response": r"\boxed{5^{5^{5^{5^{5}}}}}"}]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert grade("--task", "math", "--input", source, "--output", target, "--timeout", 1, "--workers", 1) == 0
    assert [row["outcome"] for row in read(target)] == ["correct", "timed_out"]


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ('{"gold": "1"}', "in.jsonl:2: malformed row: no field 'response'"),
        ('{"response": "1"}', "in.jsonl:2: malformed row: no field 'gold'"),
        ('{"gold": "1", "response": null}', "in.jsonl:2: malformed row: response is None, not text"),
        ('{"gold": ["1"], "response": "1"}', "in.jsonl:2: malformed row: gold is ['1'], not text or a number"),
        ('{"gold": "1", "response": "1", "finish_reason": 1}', "in.jsonl:2: malformed row: finish_reason is 1"),
        ('{"gold": "1", "response": ["1", 2]}', "in.jsonl:2: malformed row: response is 2, not text"),
        (
            '{"gold": "1", "response": "1", "finish_reason": "end_turn"}',
            "in.jsonl:2: malformed row: finish_reason 'end_turn' is none of stop, length, abort",
        ),
        (
            '{"gold": "1", "response": ["1"], "finish_reason": []}',
            "in.jsonl:2: malformed row: response is a list of 1",
        ),
        ('{"gold": "1", "resp', "in.jsonl:2: malformed row"),
    ],
)
def test_a_malformed_row_is_named_by_its_line_and_no_output_is_left(tmp_path, capsys, last, says):
    (tmp_path / "in.jsonl").write_text('{"gold": "1", "response": "1"}\n' + last + "\n")
    assert grade("--task", "gsm8k", "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl") == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_users_mistake_is_one_line_and_status_2(tmp_path, capsys):
    source, target, empty = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out", write(tmp_path / "empty.jsonl", [])
    run = sampled(tmp_path / "run")
    unfinished = tmp_path / "unfinished"
    Run.create(unfinished, "sample", {"task": "gsm8k"}, [])
    for flags, says in {
        ("--task", "gsm8k", "--input", tmp_path / "none.jsonl"): "no such file",
        ("--task", "gsm9k", "--input", source): "unknown task: gsm9k",
        ("--input", source): "--task is required",
        ("--task", "gsm8k", "--input", empty): "no rows",
        ("--task", "gsm8k", "--input", source, "--timeout", 0): "--timeout",
        ("--task", "gsm8k", "--input", source, "--workers", 0): "--workers",
        ("--task", "math", "--input", run): "run was made with the task gsm8k",
        ("--input", tmp_path): "no manifest.json",
        ("--input", unfinished): "not complete",
    }.items():
        assert grade(*flags, "--output", target) == 2
        message = capsys.readouterr().err
        assert says in message
        assert message.count("\n") == 1
        assert not target.exists()
    assert grade("--task", "gsm8k", "--input", source, "--output", source) == 2
    assert grade("--task", "gsm8k", "--input", source, "--output", tmp_path / "run") == 2
    assert read(source) == ROWS


def test_a_run_is_graded_with_its_own_task_and_keeps_problems_and_traces(tmp_path):
    source, target = sampled(tmp_path / "run"), tmp_path / "graded"
    assert grade("--input", source, "--output", target) == 0
    before, after = Run.open(source), Run.open(target)
    assert after.problems() == before.problems()
    traces = list(after.read("traces"))
    assert [(trace.outcome, trace.answer) for trace in traces] == list(zip(OUTCOMES, ANSWERS, strict=True))
    assert [Trace(**{**vars(trace), "outcome": None, "answer": None}) for trace in traces] == list(
        before.read("traces")
    )
    assert after.manifest["counts"] == {
        "traces": 5,
        "correct": 2,
        "wrong": 1,
        "truncated": 1,
        "no_answer": 1,
        "timed_out": 0,
        "failed": 0,
    }


def test_a_complete_output_is_left_alone_and_a_shard_that_is_there_is_not_made_again(tmp_path, capsys):
    source, target = sampled(tmp_path / "run"), tmp_path / "graded"
    assert grade("--input", source, "--output", target) == 0
    shards = [target / "traces-00000.parquet", target / "traces-00001.parquet"]
    made = [shard.stat().st_mtime_ns for shard in shards]
    capsys.readouterr()
    assert grade("--input", source, "--output", target) == 0
    assert capsys.readouterr().out == f"{target}: already complete, nothing to do\n"
    # As a killed command leaves it: the first shard written, the second not, the manifest not complete.
    manifest = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps({**manifest, "complete": False, "counts": {}}))
    shards[1].unlink()
    assert grade("--input", source, "--output", target) == 0
    assert shards[0].stat().st_mtime_ns == made[0]
    assert Run.open(target).manifest == manifest
    assert [trace.outcome for trace in Run.open(target).read("traces")] == OUTCOMES


def test_traces_of_different_policies_never_mix_in_one_output(tmp_path, capsys):
    target = tmp_path / "graded"
    assert grade("--input", sampled(tmp_path / "one", model="a"), "--output", target) == 0
    assert grade("--input", sampled(tmp_path / "two", model="b"), "--output", target) == 2
    assert "was made with input =" in capsys.readouterr().err
    # Where the input lies does not matter.
    (tmp_path / "one").rename(tmp_path / "moved")
    assert grade("--input", tmp_path / "moved", "--output", target) == 0


def test_flexible_grading_reads_the_last_number_where_none_is_announced(tmp_path, capsys):
    said = [
        "She has 3 + 4 = 7 apples.",
        "That makes $1,250.50 in all",
        "#### 18\nthat is 3 more than 15",
        "It is between 3-5",
        "I do not know",
        "<think>12</think> none",
        "so x = -4.",
    ]
    rows = [{"gold": "1", "response": one} for one in said]
    source = write(tmp_path / "in.jsonl", rows)
    for grading, answers in (
        ("strict", [None, None, "18", None, None, None, None]),
        ("flexible", ["7", "$1,250.50", "18", "5", None, None, "-4"]),
    ):
        target = tmp_path / f"{grading}.jsonl"
        words = ["--task", "gsm8k", "--input", source, "--output", target, "--grading", grading]
        assert grade(*words) == 0
        assert [row["answer"] for row in read(target)] == answers
        told = capsys.readouterr().err
        assert "of 7 whole responses the task gsm8k can read no answer" in told
        assert ("or grade with --grading flexible" in told) == (grading == "strict")
    assert grade("--task", "math", "--input", source, "--output", tmp_path / "m.jsonl", "--grading", "flexible") == 2
    assert "--grading flexible: the task math has strict alone" in capsys.readouterr().err


def test_few_responses_without_an_answer_are_not_warned_of(tmp_path, capsys):
    rows = [{"gold": "1", "response": "#### 1"}] * 8 + [{"gold": "1", "response": "eh"}] * 2
    source = write(tmp_path / "in.jsonl", rows)
    assert grade("--task", "gsm8k", "--input", source, "--output", tmp_path / "out.jsonl") == 0
    assert "warning" not in capsys.readouterr().err
    rows += [{"gold": "1", "response": "I cannot tell"}]
    assert (
        grade("--task", "gsm8k", "--input", write(tmp_path / "in.jsonl", rows), "--output", tmp_path / "out.jsonl")
        == 0
    )
    told = capsys.readouterr().err
    assert "in 3 of 11 whole responses" in told
    assert "'I cannot tell'" in told
    assert "--data.apply_chat_template" in told


def test_a_run_is_valued_by_the_grading_that_its_answers_had(tmp_path, tiny_model):
    problem = Problem("p", "1 + 1?", "2")
    sampled = Run.create(tmp_path / "s", "sample", {"task": "gsm8k"}, [problem], tiny_model)
    sampled.expect(1)
    sampled.write("traces", 0, [Trace("p", 0, [1], [1], "it is 2", "stop")])
    sampled.finish({})
    for grading, outcome in (("strict", "no_answer"), ("flexible", "correct")):
        output = tmp_path / grading
        assert grade("--input", tmp_path / "s", "--output", output, "--grading", grading) == 0
        made = Run.open(output)
        assert [trace.outcome for trace in made.read("traces")] == [outcome]
        assert made.task().grading == grading
        valued = Run.create(
            tmp_path / f"v{grading}", "value", {"task": "gsm8k", "input": made.manifest["settings"]}, []
        )
        assert valued.task().grading == grading
        assert pickle.loads(pickle.dumps(valued.task())).grading == grading
