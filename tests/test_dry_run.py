"""A dry run says what the run would cost, by a rate that was measured, and refuses what the run would refuse."""

import json
import os

import pytest

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.models import revision
from openrlhf_negdata.records import Problem, StepValues, Trace
from openrlhf_negdata.rollouts.engines import Engines
from openrlhf_negdata.rollouts.store import Run


@pytest.fixture(autouse=True)
def no_engine(monkeypatch):
    def start(self):
        raise AssertionError("an engine was started")

    monkeypatch.setattr(Engines, "__enter__", start)


@pytest.fixture
def problems(tmp_path):
    words = ["problems", "--task", "running_value", "--split", "syn", "--count", "10"]
    assert main([*words, "--output", str(tmp_path / "p.jsonl")]) == 0
    return tmp_path / "p.jsonl"


def measured(path, command, speed):
    """A run of one shard that was made with this speed."""
    run = Run.create(path, command, {"task": "running_value"}, [Problem("p", "1 +1 ?", "r2")])
    run.expect(1)
    run.write("traces", 0, [Trace("p", 0, [5], [6, 7], "", "stop", "wrong")], speed if command == "sample" else None)
    if command == "value":
        run.write("rollouts", 0, [])
        run.write("values", 0, [StepValues("p", 0, [2], [0], [4])], speed)
    run.finish({})
    return path


SPEED = {"seconds": 50.0, "engine_seconds": 100.0, "answers": 40, "tokens": 200}


def sample(problems, model, output, *more):
    words = ["sample", "--task", "running_value", "--problems", problems, "--model.model_name_or_path", model]
    return main([str(word) for word in [*words, "--output", output, "--dry_run", *more]])


def test_sample_says_tokens_and_time_by_the_rate_of_an_earlier_run(problems, tiny_model, tmp_path, capsys):
    """Answers of 5 tokens: 10 problems of 8 answers are 400 tokens, at 2 a second an engine 200 s, of two 100 s."""
    run = measured(tmp_path / "earlier", "sample", SPEED)
    capsys.readouterr()
    assert sample(problems, tiny_model, tmp_path / "out", "--rate_of", run) == 0
    told = capsys.readouterr().out
    assert "10 problems, 80 answers" in told
    assert "about 400 tokens to generate, if answers are as long as those of" in told
    assert "time: about 3 min 20 s, with 1 engine(s) of 2 tokens a second each, as " in told
    if len(os.sched_getaffinity(0)) > 1:
        assert sample(problems, tiny_model, tmp_path / "out", "--rate_of", run, "--vllm.num_engines", 2) == 0
        assert "time: about 1 min 40 s, with 2 engine(s)" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_without_a_rate_the_time_is_not_known_and_tokens_are_the_most(problems, tiny_model, tmp_path, capsys):
    assert sample(problems, tiny_model, tmp_path / "out", "--rollout.max_new_tokens", 9) == 0
    told = capsys.readouterr().out
    assert "at most 720 tokens to generate\n" in told
    assert "time: not known" in told


def test_a_rate_of_a_run_that_tells_none_is_refused(problems, tiny_model, tmp_path, capsys):
    run = measured(tmp_path / "earlier", "sample", {"seconds": 5, "tokens": 3})
    assert sample(problems, tiny_model, tmp_path / "out", "--rate_of", run) == 2
    assert "it tells no rate" in capsys.readouterr().err


def test_a_dry_run_refuses_what_the_run_would_and_writes_nothing(problems, tiny_model, tmp_path, capsys):
    other = measured(tmp_path / "other", "sample", SPEED)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "problems.jsonl").write_text('{"id": "1"}\n')
    cores = len(os.sched_getaffinity(0))
    for output, flags, says in (
        (other, (), "was made with"),
        (mine, (), "holds a problems.jsonl of other problems"),
        (tmp_path / "out", ("--vllm.num_engines", cores + 1), f"this host has {cores} core(s)"),
        (tmp_path / "out", ("--vllm.num_engines", 0), "must be at least 1"),
        (tmp_path / "out", ("--rollout.max_new_tokens", 1000), "too long"),
    ):
        assert sample(problems, tiny_model, output, *flags) == 2
        told = capsys.readouterr().err
        assert says in told
        assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_engines_beyond_the_cores_are_let_through_on_a_cluster(problems, tiny_model, tmp_path):
    more = ["--vllm.num_engines", len(os.sched_getaffinity(0)) + 1, "--ray.address", "auto"]
    assert sample(problems, tiny_model, tmp_path / "out", *more) == 0


def graded(path, model):
    made = {"task": "running_value", "model": revision(model), "max_tokens": 18, "sampling": {}}
    problem = Problem("p", "1 +1 ?", "r2")
    run = Run.create(path, "grade", {"task": "running_value", "timeout": 5, "input": made}, [problem], model)
    run.expect(1)
    run.write("traces", 0, [Trace("p", 0, [5], [6, 7, 8], "", "stop", "wrong")])
    run.finish({})
    return path


def test_value_says_the_time_and_refuses_another_model(tiny_model, tmp_path, capsys):
    """One prefix, the empty one, with 8 rollouts of 3 tokens: 24 tokens at 2 a second."""
    run = measured(tmp_path / "earlier", "value", SPEED | {"rollouts": 10})
    words = ["value", "--input", graded(tmp_path / "graded", tiny_model), "--output", tmp_path / "out", "--dry_run"]
    words = [str(word) for word in [*words, "--rate_of", run, "--model.model_name_or_path"]]
    assert main([*words, str(tiny_model)]) == 0
    told = capsys.readouterr().out
    assert "about 24 tokens to generate" in told
    assert "time: about 12.0 s, with 1 engine(s) of 2 tokens a second each" in told
    assert not (tmp_path / "out").exists()
    assert main([*words, str(tmp_path / "none")]) == 2


def test_what_engines_made_is_told_by_stage_on_the_page_and_in_the_summary(tmp_path, capsys):
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    for arm, tokens in (("a", 100), ("b", 50)):
        told = {
            "arm": arm, "model": arm, "task": "t", "problems": 2, "wrong": [1, 0], "trace_wrong": None,
            "outcomes": {"correct": 1, "wrong": 1}, "q_by_step": None,
            "spent": {"answers": 2, "rollouts": 4, "tokens": tokens, "seconds": 1.5},
        }  # fmt: skip
        (evaluation / f"{arm}.json").write_text(json.dumps(told))
    run = measured(tmp_path / "traces", "sample", SPEED)
    words = ["report", "--evaluation", evaluation, "--runs", run, run, "--output", tmp_path / "out"]
    assert main(list(map(str, words))) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["spent"] == {
        "sample": {"answers": 40, "rollouts": 0, "tokens": 200, "seconds": 50},
        "evaluate": {"answers": 4, "rollouts": 8, "tokens": 150, "seconds": 3},
    }
    assert "What engines made, by stage" in capsys.readouterr().out
    assert "<h2>What engines made</h2>" in (tmp_path / "out" / "report.html").read_text()


def test_show_tells_a_run_to_programs(tmp_path, capsys):
    run = measured(tmp_path / "traces", "sample", SPEED)
    assert main(["show", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["command"], told["complete"], told["problems"]) == ("sample", True, 1)
    assert told["shards"] == {"done": 1, "owed": 0}
    assert told["traces"] == {"wrong": 1}
    assert told["speed"] == SPEED
    assert main(["show", str(run)]) == 0
    assert "tokens a second" in capsys.readouterr().out
