"""A user's mistake is one line on stderr that says what and where, exit status 2, and nothing half-written."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.models import revision
from openrlhf_negdata.records import Problem, Trace
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS

ROWS = ['{"question": "1 +1 ?", "gold": "r2"}', '{"question": "2 +1 ?", "gold": "r0"}']


@pytest.fixture(autouse=True)
def no_engine_starts(monkeypatch):
    """Every mistake here is found before an engine or a trainer starts: starting one would take half a minute."""

    def started(*_, **__):
        raise AssertionError("an engine or a trainer was started")

    import ray

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.setattr("openrlhf_negdata.cpu.setup", started)
    monkeypatch.setattr(os, "execv", started)


@pytest.fixture
def files(tmp_path, tiny_model) -> Path:
    """A folder with problems, good and bad, and copies of a model with something wrong with each."""
    for name, lines in {
        "problems": ROWS,
        "empty": [],
        "blank": ["", "  "],
        "malformed": [*ROWS, '{"question": "3 +1 ?"'],
        "array": [ROWS[0], "[1, 2]"],
        "no_gold": [*ROWS, '{"question": "3 +1 ?"}'],
        "twice": ['{"id": 7, "question": "a", "gold": "r0"}', '{"id": "7", "question": "b", "gold": "r1"}'],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for name in ("no_tokenizer", "no_weights", "odd_heads", "with_code", "not_json"):
        shutil.copytree(tiny_model, tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "no_tokenizer" / file).unlink()
    (tmp_path / "no_weights" / "model.safetensors").unlink()
    edit(tmp_path / "odd_heads" / "config.json", num_attention_heads=4, num_key_value_heads=4, head_dim=16)
    edit(tmp_path / "with_code" / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    (tmp_path / "with_code" / "modeling.py").write_text("raise SystemExit('this code was run')\n")
    (tmp_path / "not_json" / "config.json").write_text("{")
    (tmp_path / "task.py").write_text("task = 1\n")
    return tmp_path


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def graded(path: Path, tokenizer_from: Path, **changed: object) -> Path:
    """A run as `negdata grade` leaves it."""
    sampled = {"task": "running_value", "model": "another", "max_tokens": 18, "sampling": {}, **changed}
    settings = {"task": "running_value", "input": sampled}
    run = Run.create(path, "grade", settings, [Problem("p", "1 +1 ?", "r2")], tokenizer_from)
    run.expect(1)
    run.write("traces", 0, [Trace("p", 0, [5], [6], "", "stop", "wrong")])
    run.finish({})
    return path


def fails(words: list[object], says: str, capsys) -> None:
    """The command says one line that holds ``says``, returns 2, and writes nothing at its --output."""
    output = Path(str(words[words.index("--output") + 1]))
    existed = output.exists()
    folder = sorted(output.parent.iterdir())
    capsys.readouterr()
    assert main(list(map(str, words))) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"negdata {words[0]}: error: ")
    assert says in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert sorted(output.parent.iterdir()) == folder
    assert output.exists() == existed


def sample(files: Path, **changed: object) -> list[object]:
    flags = {"task": "running_value", "problems": files / "problems.jsonl", "output": files / "out"} | {
        "model.model_name_or_path": files / "no_weights"
    }
    return ["sample", *(word for key, value in (flags | changed).items() for word in (f"--{key}", value))]


@pytest.mark.parametrize(
    ("problems", "says"),
    [
        ("missing", "no such file: {}/missing.jsonl"),
        ("empty", "{}/empty.jsonl: no problems in it"),
        ("blank", "{}/blank.jsonl: no problems in it"),
        ("malformed", "{}/malformed.jsonl:3: malformed row: "),
        ("array", "{}/array.jsonl:2: malformed row: not a JSON object"),
        ("no_gold", "{}/no_gold.jsonl:3: malformed row: no field 'gold'"),
        ("twice", "{}/twice.jsonl:2: malformed row: two problems have the id '7'"),
    ],
)
def test_bad_problems_are_named_by_file_and_line(files, capsys, problems, says):
    path = files / f"{problems}.jsonl"
    fails(sample(files, problems=path), says.format(files), capsys)
    arms = [f"sft={files / 'no_weights'}"]
    flags = ["--problems", path, "--models", *arms, "--output", files / "out"]
    fails(["evaluate", "--task", "running_value", *flags], says.format(files), capsys)
    (files / "own").mkdir()
    if path.exists():
        shutil.copy(path, files / "own" / "problems.jsonl")
    build = ["build", "sft", "--task", "running_value", "--input", files / "own", "--output", files / "out.jsonl"]
    fails(build, says.format(files).replace(str(path), str(files / "own" / "problems.jsonl")), capsys)


def test_an_unknown_task_is_named(files, capsys):
    for task, says in (
        ("gsm9k", "unknown task: gsm9k (built in: gsm8k, math"),
        (files / "none.py", f"no such task file: {files}/none.py"),
        (files / "task.py", f"{files}/task.py defines no `task`"),
    ):
        fails(sample(files, task=task), says, capsys)
        fails(
            ["problems", "--task", task, "--split", "syn", "--count", 2, "--output", files / "out.jsonl"], says, capsys
        )
        fails(["new_model", "--task", task, "--output", files / "out"], says, capsys)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("missing", "no model folder {}/missing, and no such model in the Hugging Face cache"),
        ("no_tokenizer", "{}/no_tokenizer: a model folder without a tokenizer"),
        ("no_weights", "{}/no_weights: no weights in it"),
        ("not_json", "{}/not_json/config.json: not JSON"),
        ("with_code", "{}/with_code runs Python code of its own: read it, then pass --model.trust_remote_code"),
        ("odd_heads", "{}/odd_heads: vLLM on CPU cannot run a head size of 16"),
    ],
)
def test_a_model_that_cannot_be_run_is_refused_by_every_command_before_it_writes(
    files, capsys, monkeypatch, model, says
):
    monkeypatch.setattr("openrlhf_negdata.cpu.without_cuda", lambda: True)
    path, says = files / model, says.format(files)
    fails(sample(files, **{"model.model_name_or_path": path}), says, capsys)
    run = graded(files / "graded", files / "no_weights")
    flags = ["--model.model_name_or_path", path, "--output", files / "out"]
    fails(["value", "--input", run, *flags], says, capsys)
    flags = ["--problems", files / "problems.jsonl", "--models", f"sft={path}", "--output", files / "out"]
    fails(["evaluate", "--task", "running_value", *flags], says, capsys)


def test_only_the_head_size_is_vllms_and_only_on_cpu(files, tiny_model, monkeypatch):
    """The same folder is let through where there is CUDA: then the engine is what starts next."""
    monkeypatch.setattr("openrlhf_negdata.cpu.without_cuda", lambda: False)
    with pytest.raises(AssertionError, match="an engine or a trainer was started"):
        main(list(map(str, sample(files, **{"model.model_name_or_path": files / "odd_heads"}))))


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("rollout.temperature", 0, "--rollout.temperature must be above 0"),
        ("rollout.top_p", 0, "--rollout.top_p must be above 0 and at most 1, not 0.0"),
        ("rollout.top_k", 0, "--rollout.top_k must be -1 or at least 1, not 0"),
        ("rollout.n_samples_per_prompt", 0, "--rollout.n_samples_per_prompt and --shard_size must be at least 1"),
        ("shard_size", 0, "--rollout.n_samples_per_prompt and --shard_size must be at least 1"),
        ("rollout.max_new_tokens", 0, "--rollout.max_new_tokens must be at least 1, not 0"),
        ("rollout.max_new_tokens", 1000, "the prompts of 2 of 2 problems are too long, by id (tokens): 1 (3), 2 (3)"),
    ],
)
def test_a_setting_that_cannot_be_sampled_with_is_refused(files, tiny_model, capsys, flag, value, says):
    fails(sample(files, **{"model.model_name_or_path": tiny_model, flag: value}), says, capsys)


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("value.n_rollouts", 0, "--value.n_rollouts must be at least 1, not 0"),
        ("value.threshold", 1, "--value.threshold must lie between 0 and 1, not 1.0"),
        ("value.confidence", 0.5, "--value.confidence must lie between 0.5 and 1, not 0.5"),
        ("value.gap", 1, "--value.gap must be at least 0 and below 1, not 1.0"),
        ("value.gap_confidence", 1, "--value.gap_confidence must lie between 0.5 and 1, not 1.0"),
        ("value.n_race", 1, "--value.n_race must be at least 2, not 1"),
        ("shard_size", 0, "--shard_size must be at least 1, not 0"),
        ("value.wrong_per_problem", 0, "no answer is left to value"),
    ],
)
def test_a_setting_that_nothing_can_be_valued_with_is_refused(files, tiny_model, capsys, flag, value, says):
    run = graded(files / "graded", tiny_model, model=revision(tiny_model))
    model = ["--model.model_name_or_path", tiny_model, "--output", files / "out"]
    fails(["value", "--input", run, *model, f"--{flag}", value], says, capsys)


@pytest.mark.parametrize(
    ("budget", "most", "warns"), [("sequential", 20, 0), ("sequential", 21, 1), ("exhaustive", 21, 0)]
)
def test_a_dry_run_warns_where_sequential_may_name_another_step(files, tiny_model, capsys, budget, most, warns):
    run = graded(files / "graded", tiny_model, model=revision(tiny_model))
    words = ["value", "--input", run, "--model.model_name_or_path", tiny_model, "--output", files / "out", "--dry_run"]
    assert main([str(word) for word in [*words, "--value.budget", budget, "--value.n_rollouts", most]]) == 0
    assert capsys.readouterr().err.count("sequential may name another step") == warns


def test_what_a_value_run_cannot_tell_is_not_built_of_it(files, tiny_model, capsys):
    for kind, arm, flags, says in (
        ("sequential", "algorithm1", ["--pit", "zero_q"], "which finds one pit an answer and nothing else"),
        ("sequential", "siblings", [], "which finds one pit an answer and nothing else"),
        ("race", "algorithm1", [], "which compares next steps and does nothing else: of the arms, siblings alone"),
        ("race", "prm", [], "which compares next steps and does nothing else"),
        ("exhaustive", "algorithm1", ["--best_of", 9], "--best_of 9 needs as many as the rollouts a prefix"),
        ("exhaustive", "siblings", ["--best_of", 5], "needs as many as --min_rollouts, and that is 4"),
        ("exhaustive", "algorithm1", ["--pit", "posterior", "--confidence", 0.5], "--confidence must be above 0.5"),
        ("exhaustive", "algorithm1", ["--confidence", 0.8], "--confidence counts with --pit posterior alone"),
    ):
        settings = {"task": "running_value", "budget": asdict(Budget(kind)), "steps": asdict(PRESETS["task"])}
        run = Run.create(files / f"{kind} {arm}", "value", settings, [Problem("p", "1 +1 ?", "r2")], tiny_model)
        run.finish({})
        build = ["build", arm, "--input", run.path, "--output", files / "out.jsonl"]
        fails([*build, *flags], says, capsys)


@pytest.mark.parametrize(
    ("arm", "flags", "says"),
    [
        ("dpo", ["--positives"], "--positives is for algorithm1, shared-prefix, not for dpo"),
        ("sft", ["--with_solutions"], "--with_solutions is for rft, step-rft, not for sft"),
        ("step-rft", ["--per_problem", 2], "not for step-rft"),
        ("rft", ["--beta", 2], "--beta is for advantage-weighted, not for rft"),
        ("siblings", ["--pit", "zero_q"], "--pit is for algorithm1, shared-prefix, not for siblings"),
        ("algorithm1", ["--min_gap", 0.9], "--min_gap is for siblings, not for algorithm1"),
        ("rft", ["--balanced"], "--balanced counts with --per_problem N, 1 or more, alone"),
        ("spurious", ["--per_problem", 0], "--per_problem must be at least 1"),
        ("dpo", ["--validation", 2], "--validation must lie between 0 and 1, not 2.0"),
        ("advantage-weighted", ["--beta", 0], "--beta must be above 0, not 0.0"),
        ("sft", ["--problems", 2], "--problems 2: there are 1 in"),
        ("sft", ["--decontaminate", "none.jsonl"], "no such file: none.jsonl"),
        ("prm", [], "has no step values: run `negdata value`"),
        ("dpo-edit-distance", [], "has no graded answers: run `negdata grade` first"),
    ],
)
def test_a_set_that_cannot_be_built_as_asked_is_refused(files, tiny_model, capsys, arm, flags, says):
    problem = Problem("p", "1 +1 ?", "r2", "+1 2 ; = r2")
    run = Run.create(files / "sampled", "sample", {"task": "running_value"}, [problem], tiny_model)
    run.expect(1)
    run.write("traces", 0, [Trace("p", 0, [5], [6], "", "stop")])
    run.finish({})
    fails(["build", arm, "--input", run.path, "--output", files / "out.jsonl", *flags], says, capsys)


def test_a_folder_that_is_not_the_run_it_should_be_is_refused(files, tiny_model, capsys):
    model = ["--model.model_name_or_path", tiny_model, "--output", files / "out"]
    fails(["value", "--input", files, *model], f"{files} is not a run folder: it has no manifest.json", capsys)
    fails(["grade", "--input", files, "--output", files / "out"], f"{files} is not a run folder", capsys)
    fails(["build", "sft", "--input", files / "none", "--output", files / "out.jsonl"], "no such folder", capsys)
    own = ["--input", files / "own", "--output", files / "out.jsonl"]
    (files / "own").mkdir()
    shutil.copy(files / "problems.jsonl", files / "own")
    fails(["build", "sft", *own], "--task is needed", capsys)
    fails(["build", "rft", *own, "--task", "running_value"], "has no traces.jsonl with graded answers", capsys)
    fails(["build", "algorithm1", *own, "--task", "running_value"], "has no step values: run `negdata value`", capsys)
    sampled = Run.create(files / "sampled", "sample", {"task": "running_value"}, [], tiny_model)
    sampled.expect(1)
    sampled.write("traces", 0, [Trace("p", 0, [5], [6], "", "stop")])
    unfinished = "is not complete: run `negdata sample` on it again first"
    fails(["value", "--input", sampled.path, *model], unfinished, capsys)
    sampled.finish({})
    fails(["value", "--input", sampled.path, *model], "was not made by `negdata grade`", capsys)
    fails(["build", "rft", "--input", sampled.path, "--output", files / "out.jsonl"], "no graded answers", capsys)
    run = graded(files / "graded", tiny_model)
    fails(["build", "algorithm1", "--input", run, "--output", files / "out.jsonl"], "has no step values", capsys)
    other = ["--task", "gsm8k", "--input", run, "--output", files / "out.jsonl"]
    fails(["build", "rft", *other], "was made with the task running_value", capsys)


def test_values_are_those_of_the_policy_that_wrote_the_answers(files, tiny_model, capsys):
    run = graded(files / "graded", tiny_model, model="the revision of another")
    flags = ["--model.model_name_or_path", tiny_model, "--output", files / "out"]
    fails(["value", "--input", run, *flags], f"{tiny_model} is not the model that wrote {run}", capsys)


def test_an_output_made_with_other_settings_is_left_as_it_is(files, tiny_model, capsys):
    Run.create(files / "out", "sample", {"task": "running_value", "seed": 5}, [])
    before = sorted((path.name, path.read_bytes()) for path in (files / "out").iterdir())
    fails(sample(files, **{"model.model_name_or_path": tiny_model}), f"{files}/out was made with ", capsys)
    assert sorted((path.name, path.read_bytes()) for path in (files / "out").iterdir()) == before
    fails(
        sample(files, **{"model.model_name_or_path": tiny_model, "output": files / "task.py"}), "is in the way", capsys
    )


def test_evaluate_names_the_arm_it_cannot_read(files, tiny_model, capsys):
    flags = ["evaluate", "--task", "running_value", "--problems", files / "problems.jsonl", "--output", files / "out"]
    for words in (["sft"], ["=x"], [f"a={tiny_model}", f"a={tiny_model}"], [f"a/b={tiny_model}"]):
        fails([*flags, "--models", *words], f"--models {words[-1]}: write ARM=MODEL, each arm once", capsys)
    for name in ("settings", "manifest", "summary"):
        says = f"--models {name}={tiny_model}: {name}.json is another file of that folder"
        fails([*flags, "--models", f"{name}={tiny_model}"], says, capsys)
    for flag, value in (("q_problems", -1), ("q_rollouts", 0)):
        fails([*flags, "--models", f"a={tiny_model}", f"--{flag}", value], "--q_problems must be at least 0", capsys)


def test_a_model_without_a_chat_template_is_named_by_every_command_that_is_to_use_it(files, tiny_model, capsys):
    says = f"--data.apply_chat_template: {tiny_model}: "
    fails([*sample(files, **{"model.model_name_or_path": tiny_model}), "--data.apply_chat_template"], says, capsys)
    flags = ["--task", "running_value", "--data.apply_chat_template", "--output", files / "out"]
    problems = ["--problems", files / "problems.jsonl"]
    fails(["evaluate", *flags, *problems, "--models", f"a={tiny_model}"], says, capsys)
    (files / "own").mkdir()
    row = '{"question": "1 +1 ?", "gold": "r2", "solution": "+1 2 ; = r2"}'
    (files / "own" / "problems.jsonl").write_text(row)
    assert main(list(map(str, ["build", "sft", "--input", files / "own", "--tokenizer", tiny_model, *flags]))) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"negdata build: error: {says}")


def test_q_by_step_is_of_the_first_problems_that_have_a_solution(files, tiny_model, monkeypatch, capsys):
    """The first two have none; of the three asked for, the two that there are are taken, and that is said."""
    from openrlhf_negdata.cli import evaluate

    asked = []
    monkeypatch.setattr(evaluate, "_groups", lambda arms, exam, flags: asked.append(exam) or [])
    monkeypatch.setattr(evaluate, "_is_done", lambda path, revision: bool(asked))
    solved = ['{"question": "3 +1 ?", "gold": "r1", "solution": "+1 4 ; = r1"}'] * 2
    (files / "some.jsonl").write_text("".join(f"{row}\n" for row in [*ROWS, *solved]))
    flags = ["evaluate", "--task", "running_value", "--problems", files / "some.jsonl", "--output", files / "out"]
    assert main(list(map(str, [*flags, "--models", f"a={tiny_model}", "--q_problems", 3]))) == 2  # no group, no file
    assert [problem.id for problem in asked[0].q_problems] == ["3", "4"]
    assert "only 2 of 4 problems have a solution" in capsys.readouterr().err


def train(words: list[object], monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["train", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("openrlhf_negdata.cli.train_step_dpo", run_name="__main__")
    return ended.value.code


def test_training_without_a_compiler_says_what_to_install(files, tiny_model, capsys, monkeypatch):
    monkeypatch.undo()  # the real set-up, up to the compiler
    monkeypatch.setattr("openrlhf_negdata.cpu.without_cuda", lambda: True)
    monkeypatch.setenv("PATH", str(files))
    (files / "set.jsonl").write_text('{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}\n')
    flags = ["--model.model_name_or_path", tiny_model, "--data.dataset", files / "set.jsonl"]
    flags += ["--ckpt.output_dir", files / "out"]
    assert train(flags, monkeypatch) == 2
    says = "no g++ on PATH: DeepSpeed builds its CPU kernels with them; install a C++ compiler"
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("train_step_dpo: error: ")
    assert says in told
    assert main(["launch", "openrlhf.cli.train_sft", "--ckpt.output_dir", str(files / "out")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("negdata launch: error: ")
    assert says in told
    assert told.count("\n") == 1
    assert not (files / "out").exists()


def test_a_trainer_refuses_what_it_cannot_train_on(files, tiny_model, capsys, monkeypatch):
    for name, dataset, says in (
        (tiny_model, "none.jsonl", f"no such file: {files}/none.jsonl"),
        (files / "no_tokenizer", "problems.jsonl", "a model folder without a tokenizer"),
        (files / "with_code", "problems.jsonl", "runs Python code of its own"),
        (files / "missing", "problems.jsonl", "no model folder"),
    ):
        flags = [
            "--model.model_name_or_path",
            name,
            "--data.dataset",
            files / dataset,
            "--ckpt.output_dir",
            files / "out",
        ]
        assert train(flags, monkeypatch) == 2
        told = capsys.readouterr().err
        assert says in told
        assert told.count("\n") == 1
        assert not (files / "out").exists()


def test_on_the_command_line_stderr_is_that_one_line(files):
    """The whole program, in a process of its own: no import of torch or transformers says anything besides."""
    command = [sys.executable, "-m", "openrlhf_negdata.cli.main"]
    words = list(map(str, sample(files, **{"model.model_name_or_path": files / "odd_heads"})))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    ended = subprocess.run(
        [*command, *words], capture_output=True, text=True, env=environment | {"CUDA_VISIBLE_DEVICES": ""}
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "cannot run a head size of 16" in ended.stderr
    assert ended.stdout == ""
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("math_verify", ["grade", "--task", "math", "--input", "none.jsonl", "--output", "out.jsonl"]),
        ("transformers", ["sample", "--task", "gsm8k", "--problems", "p.jsonl", "--output", "out"]),
    ],
)
def test_a_package_that_is_not_installed_is_one_line_that_names_it(tmp_path, tiny_model, package, words):
    (tmp_path / "absent" / package).mkdir(parents=True)
    code = f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')\n"
    (tmp_path / "absent" / package / "__init__.py").write_text(code)
    (tmp_path / "p.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    if words[0] == "sample":
        words = [*words, "--model.model_name_or_path", tiny_model]
    path = os.pathsep.join([str(tmp_path / "absent"), *filter(os.path.isdir, sys.path)])
    command = [sys.executable, "-m", "openrlhf_negdata.cli.main", *map(str, words)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    says = f"negdata {words[0]}: error: No module named '{package}': `negdata doctor` says what is missing or off"
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1
