"""A task of one's own is known by what its file holds, wherever it lies; a run folder's code is never run unasked."""

import json
import os
import pickle
import shutil
from dataclasses import asdict

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.models import revision
from openrlhf_negdata.records import Problem, Trace
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS
from openrlhf_negdata.tasks import load

TASK = """
import pathlib
from openrlhf_negdata.tasks import CORRECT, WRONG, Graded, Task
pathlib.Path({ran!r}).touch()
class Mine(Task):
    name = "mine"
    def grade(self, gold, response):
        return Graded(CORRECT if gold == response else WRONG, response)
task = Mine()
"""


@pytest.fixture
def ran(tmp_path):
    """The file that a task file leaves when it is run."""
    return tmp_path / "ran"


@pytest.fixture
def file(tmp_path, ran):
    path = tmp_path / "my_task.py"
    path.write_text(TASK.format(ran=str(ran)))
    return path


def edited(file):
    """The file with one more byte, of the same time: nothing but its content says that it is another."""
    stat = file.stat()
    file.write_text(file.read_text().replace("gold == response", "gold != response"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return file


def sampled(path, file, **settings):
    task = load(str(file))
    run = Run.create(path, "sample", {"task": task.identity, **settings}, [Problem("a", "q", "18")], task=task)
    tokenizer = Tokenizer(models.WordLevel({"</s>": 0}))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(path / "tokenizer")
    run.expect(1)
    run.write("traces", 0, [Trace("a", 0, [1], [2], "18", "stop"), Trace("a", 1, [1], [3], "17", "stop")])
    run.finish({})
    return path


def command(*words) -> int:
    return main(list(map(str, words)))


def test_a_task_is_known_by_its_content_alone(file, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    other = shutil.copy(file, tmp_path / "elsewhere" / "renamed.py")
    monkeypatch.chdir(tmp_path)
    identity = load(str(file)).identity
    assert identity.startswith("mine sha256:")
    assert load("./my_task.py").identity == load("my_task.py").identity == load(str(other)).identity == identity
    assert load(str(edited(file))).identity != identity
    assert load("gsm8k").identity == "gsm8k"


def test_an_edited_task_file_is_never_taken_for_the_one_a_run_was_made_with(file, ran, tmp_path, capsys):
    run = sampled(tmp_path / "run", file)
    assert command("grade", "--task", file, "--input", run, "--output", tmp_path / "graded") == 0
    edited(file)
    ran.unlink()
    capsys.readouterr()
    for output in ("graded", "other"):
        assert command("grade", "--task", file, "--input", run, "--output", tmp_path / output) == 2
        told = capsys.readouterr().err
        assert "was made with the task mine sha256:" in told
        assert "it was edited since, or is another" in told
        assert told.count("\n") == 1
    assert not ran.exists()  # it is known before it is run
    with pytest.raises(UserError, match="was made with task = 'mine sha256:"):
        Run.create(run, "sample", {"task": load(str(file)).identity}, [Problem("a", "q", "18")])


def test_an_edited_task_file_makes_other_sets_and_grades(file, tmp_path, capsys):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "problems.jsonl").write_text(
        json.dumps({"id": "a", "question": "q", "gold": "1", "solution": "1"}) + "\n"
    )
    words = ("build", "sft", "--task", file, "--input", tmp_path / "own", "--output", tmp_path / "sft.jsonl")
    assert command(*words) == 0
    shutil.copy(file, tmp_path / "moved.py")
    capsys.readouterr()
    assert command(*words[:3], tmp_path / "moved.py", *words[4:]) == 0
    assert "is complete" in capsys.readouterr().out
    edited(file)
    assert command(*words) == 0
    assert "is complete" not in capsys.readouterr().out


def test_code_that_a_run_carries_is_never_run_unasked(file, ran, tmp_path, capsys, tiny_model):
    run = sampled(tmp_path / "run", file, model=revision(tiny_model))
    graded = tmp_path / "graded"
    assert command("grade", "--task", file, "--input", run, "--output", graded) == 0
    assert (graded / "task.py").read_bytes() == (run / "task.py").read_bytes() == file.read_bytes()
    ran.unlink()
    model = ("--model.model_name_or_path", tiny_model)
    for words in (
        ("grade", "--input", run, "--output", tmp_path / "out"),
        ("value", "--input", graded, "--output", tmp_path / "out", *model),
        ("value", "--input", graded, "--output", tmp_path / "out", *model, "--dry_run"),
        ("build", "rft", "--input", graded, "--output", tmp_path / "out"),
    ):
        capsys.readouterr()
        assert command(*words) == 2
        told = capsys.readouterr().err
        assert "give --task FILE.py" in told
        assert f"{words[words.index('--input') + 1]}/task.py is a copy, read it before you name it" in told
        assert told.count("\n") == 1
        assert not (tmp_path / "out").exists()
    assert command("show", graded) == 0
    assert "mine sha256:" in capsys.readouterr().out
    assert not ran.exists()
    copy = graded / "task.py"  # named, it is run as any file is
    assert command("value", "--task", copy, "--input", graded, "--output", tmp_path / "out", *model, "--dry_run") == 0
    assert ran.exists()


def test_a_received_run_goes_on_with_the_copy_that_it_carries(file, tmp_path):
    sampled(tmp_path / "run", file)
    received = shutil.move(tmp_path / "run", tmp_path / "received")
    file.unlink()
    out, copy = tmp_path / "graded", tmp_path / "received" / "task.py"
    assert command("grade", "--task", copy, "--input", received, "--output", out) == 0
    assert [trace.outcome for trace in Run.open(out).read("traces")] == ["correct", "wrong"]
    assert command("build", "rft", "--task", copy, "--input", out, "--output", tmp_path / "rft.jsonl") == 0


def test_a_worker_loads_the_very_file_or_none(file):
    task = load(str(file))
    again = pickle.dumps(task)
    assert pickle.loads(again).identity == task.identity
    edited(file)
    with pytest.raises(UserError, match="it was edited since, or is another"):
        pickle.loads(again)


def test_a_task_file_that_cannot_be_run_is_named_by_its_line(tmp_path, capsys):
    path = tmp_path / "broken.py"
    for code, says in (
        ("import os\n1 / 0\n", "broken.py:2: the task file cannot be run: ZeroDivisionError"),
        ("import no_such_module_here\n", "broken.py:1: the task file cannot be run: ModuleNotFoundError"),
        ("import os\ndef\n", "broken.py:2: the task file cannot be run: SyntaxError: invalid syntax\n"),
        ("raise SystemExit(0)\n", "broken.py:1: the task file cannot be run: SystemExit"),
    ):
        path.write_text(code)
        words = ("problems", "--task", path, "--split", "syn", "--count", 2, "--output", tmp_path / "out")
        assert command(*words) == 2
        told = capsys.readouterr().err
        assert says in told
        assert told.count("\n") == 1


def test_a_task_file_may_hold_a_dataclass(tmp_path):
    path = tmp_path / "dataclass_task.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from openrlhf_negdata.tasks import Task\n"
        "@dataclass\nclass Mine(Task):\n    limit: int = 3\n    def prompt(self, question):\n"
        "        return question[:self.limit]\ntask = Mine()\n"
    )
    assert load(str(path)).prompt("question") == "que"


def test_a_task_file_is_compiled_as_its_own_module_would_be(tmp_path):
    path = tmp_path / "annotated.py"
    path.write_text("from openrlhf_negdata.tasks import Task\nclass Mine(Task):\n    limit: int = 3\ntask = Mine()\n")
    assert type(load(str(path))).__annotations__ == {"limit": int}  # not the text "int"


def test_a_task_file_that_names_a_built_in_task_leaves_that_as_it_was(tmp_path):
    path = tmp_path / "alias.py"
    path.write_text("from openrlhf_negdata.tasks.gsm8k import task\n")
    assert load(str(path)).identity.startswith("gsm8k sha256:")
    assert load("gsm8k").identity == "gsm8k"


def test_rollouts_have_the_time_of_the_answers_grader(file, tmp_path, tiny_model, monkeypatch):
    """What the actors are given: the file that was checked, its identity, and the timeout of `negdata grade`."""
    from openrlhf_negdata import models as policies
    from openrlhf_negdata.cli import value
    from openrlhf_negdata.rollouts.engines import Engines

    task = load(str(file))
    made = {
        "task": task.identity,
        "model": policies.revision(tiny_model),
        "sampling": {"temperature": 0.7, "top_p": 1.0, "top_k": -1},
        "max_tokens": 8,
    }
    run = Run.create(
        tmp_path / "graded",
        "grade",
        {"task": task.identity, "timeout": 33.5, "input": made},
        [Problem("a", "q", "18")],
        tiny_model,
        task,
    )
    run.expect(1)
    run.write("traces", 0, [Trace("a", 0, [5], [6, 7], "17", "stop", "wrong")])
    run.finish({})
    asked = []

    def stop(self, jobs, ahead, **_):
        asked.extend(job.run for job in jobs)
        raise UserError("stopped here")

    # Only what needs an engine is left out.
    monkeypatch.setattr(Engines, "__enter__", lambda self: self)
    monkeypatch.setattr(Engines, "__exit__", lambda self, *_: None)
    monkeypatch.setattr(Engines, "run", stop)
    assert value.EXECUTOR.is_file()
    flags = ("--input", run.path, "--output", tmp_path / "out", "--model.model_name_or_path", tiny_model)
    assert command("value", "--task", file, *flags) == 2
    assert [(one.task, one.identity, one.timeout) for one in asked] == [(str(file), task.identity, 33.5)]
    assert asdict(Budget()) == asdict(asked[0].budget)
    assert asked[0].segmentation == PRESETS["task"]
