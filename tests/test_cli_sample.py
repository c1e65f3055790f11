"""`negdata sample` without an engine: what it says of answers that are there already."""

import pytest

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.records import Trace
from openrlhf_negdata.rollouts.engines import Engines
from openrlhf_negdata.rollouts.store import Run


def test_answers_are_counted_under_whatever_reason_they_ended_for(tmp_path, tiny_model, monkeypatch, capsys):
    def no_engine(self):
        raise UserError("an engine is started")

    monkeypatch.setattr(Engines, "__enter__", no_engine)
    problems, output = str(tmp_path / "problems.jsonl"), tmp_path / "traces"
    words = ["problems", "--task", "running_value", "--split", "syn", "--count", "2", "--output", problems]
    assert main(words) == 0
    words = ["sample", "--task", "running_value", "--problems", problems, "--output", str(output)]
    words += ["--model.model_name_or_path", str(tiny_model)]
    assert main(words) == 2
    assert "an engine is started" in capsys.readouterr().err
    run = Run.open(output, complete=False)
    name = run.problems()[0].id
    reasons = ["stop", "abort", "length", "error", "repetition", "abort"]
    run.write("traces", 0, [Trace(name, i, [1], [2], "", reason) for i, reason in enumerate(reasons)])
    with pytest.raises(UserError, match="is not complete"):
        Run.open(output)
    assert main(words) == 0
    assert Run.open(output).manifest["counts"] == {
        "problems": 2,
        "traces": 6,
        "stop": 1,
        "length": 1,
        "abort": 2,
        "error": 1,
        "repetition": 1,
    }
