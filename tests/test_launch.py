"""`negdata launch`: stock OpenRLHF and our trainers, as a user runs them."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import openrlhf_negdata
from openrlhf_negdata.cli.main import main
from openrlhf_negdata.files import read_file

COMMANDS = {
    "train_sft": ["--data.input_key", "question", "--data.output_key", "solution", "--data.input_template", "{} "],
    "train_dpo": ["--data.prompt_key", "prompt"],
}
STAGES = (0, 1, 2, 3)


def launch(argv, folder, log):
    """Exit status and output of `negdata launch` on one thread; what Hugging Face caches goes into ``folder``."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "openrlhf_negdata.cli.main", "launch", *map(str, argv)]
    with open(log, "w", encoding="utf-8") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, timeout=500)
    return done.returncode, log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Problems of running_value, and pairs of the right solution and another problem's."""
    folder = tmp_path_factory.mktemp("data")
    problems = ["problems", "--task", "running_value", "--split", "base", "--count", "16"]
    assert main([*problems, "--output", str(folder / "train_sft.jsonl")]) == 0
    rows = list(read_file(folder / "train_sft.jsonl", lambda row, _: row))
    with (folder / "train_dpo.jsonl").open("w", encoding="utf-8") as pairs:
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
            pair = {"prompt": row["question"] + " ", "chosen": row["solution"], "rejected": other["solution"]}
            print(json.dumps(pair), file=pairs)
    return folder


@pytest.fixture(scope="module")
def stock_runs(train, tiny_model, data, tmp_path_factory):
    """By (command, stage): four updates that leave a checkpoint after each second one, and a run that goes on from the
    first of them, as if the other had been killed there.

    Stage 2, OpenRLHF's default, starts by `negdata launch`. The rest run the very command that launch turns into, in
    forks, which saves 10 s each.
    """
    folder = tmp_path_factory.mktemp("stock")

    def flags(command, stage, output):
        here = folder / f"{command}{stage}"
        here.mkdir(exist_ok=True)
        words = [f"openrlhf.cli.{command}", "--model.model_name_or_path", tiny_model, *COMMANDS[command]]
        words += ["--data.dataset", data / f"{command}.jsonl", "--data.max_len", 128, "--train.max_epochs", 1]
        words += ["--train.batch_size", 4, "--train.micro_batch_size", 2, "--adam.lr", 1e-2, "--ds.zero_stage", stage]
        return [
            *words,
            "--ckpt.path",
            here / "checkpoints",
            "--ckpt.save_steps",
            2,
            "--ckpt.output_dir",
            here / output,
        ]

    def fork(argv):
        return train("openrlhf_negdata.cpu", [*argv, "--ds.attn_implementation", "sdpa"])

    with ThreadPoolExecutor(len(COMMANDS)) as pool:
        launched = {
            command: pool.submit(launch, flags(command, 2, "whole"), folder, folder / f"{command}.log")
            for command in COMMANDS
        }
        whole = {(c, stage): fork(flags(c, stage, "whole")) for c in COMMANDS for stage in STAGES if stage != 2}
        whole |= {(command, 2): launched[command].result() for command in COMMANDS}
    runs = {}
    for (command, stage), first in whole.items():
        checkpoints = folder / f"{command}{stage}" / "checkpoints"
        shutil.rmtree(checkpoints / "global_step4", ignore_errors=True)
        if checkpoints.is_dir():
            (checkpoints / "latest").write_text("global_step2")
        second = fork([*flags(command, stage, "resumed"), "--ckpt.load_enable"])
        runs[command, stage] = folder / f"{command}{stage}", first, second
    return runs


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("command", COMMANDS)
def test_stock_openrlhf_trains_saves_and_resumes_without_cuda(stock_runs, tiny_model, command, stage):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, (status, output), (resumed_status, resumed_output) = stock_runs[command, stage]
    assert status == 0, output[-4000:]
    start, whole = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (tiny_model, folder / "whole"))
    assert all((whole[name] != start[name]).any() and whole[name].isfinite().all() for name in start)
    assert AutoTokenizer.from_pretrained(folder / "whole").eos_token == "</s>"

    assert resumed_status == 0, resumed_output[-4000:]
    assert "consumed_samples: 8" in resumed_output
    resumed = AutoModelForCausalLM.from_pretrained(folder / "resumed").state_dict()
    # DeepSpeed's Adam for CPU differs in its last bit after a resume (see test_trainers.py).
    torch.testing.assert_close(resumed, whole, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("trainer", ["train_step_dpo", "train_advantage_weighted"])
def test_two_processes_train_and_evaluate_as_one_does(train, tiny_model, data, tmp_path, trainer):
    """Two processes with small micro-batches see what one sees with a large one, though neither an update's five rows
    nor the three held-out ones can be halved. A run that is done is refused other settings, by rank 0 for both."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with (tmp_path / "rows.jsonl").open("w", encoding="utf-8") as rows:
        for number, row in enumerate(read_file(data / "train_dpo.jsonl", lambda row, _: row)):
            ids = {key: tokenizer(text)["input_ids"] for key, text in row.items()}
            made = {"prompt_ids": ids["prompt"], "chosen_ids": ids["chosen"], "rejected_ids": ids["rejected"]}
            if trainer == "train_advantage_weighted":
                ends = [2, len(ids["chosen"])]
                made = {"prompt_ids": ids["prompt"], "response_ids": ids["chosen"], "step_ends": ends}
                made |= {"weights": [0.1 * number, 1.0]}
            print(json.dumps(made), file=rows)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "held out.jsonl").write_text(lines[0] + lines[8] + lines[15], encoding="utf-8")
    size = {"train_step_dpo": ("train.max_tokens_per_gpu", 60, 4000)}.get(trainer, ("train.micro_batch_size", 2, 8))
    logged = {}
    for name, count in zip(("two", "one"), size[1:], strict=True):
        flags = ["--model.model_name_or_path", tiny_model, "--data.dataset", tmp_path / "rows.jsonl"]
        flags += ["--eval.dataset", tmp_path / "held out.jsonl", "--train.max_epochs", 1]
        flags += ["--train.batch_size", 5, f"--{size[0]}", count, "--adam.lr", 1e-3]
        flags += ["--ckpt.save_steps", 1, "--ckpt.output_dir", tmp_path / name]
        flags += ["--logger.tensorboard_dir", tmp_path / "logs", "--logger.wandb.run_name", name]
        module = f"openrlhf_negdata.cli.{trainer}"
        if name == "two":
            status, output = launch(["--num_processes", 2, module, *flags], tmp_path, tmp_path / "two.log")
        else:
            status, output = train(module, flags)
        assert status == 0, output[-4000:]
        events = EventAccumulator(str(tmp_path / "logs" / name))
        events.Reload()
        logged[name] = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith(".") and "two" in path.name}
    assert left == {".two.lock"}
    AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert len(logged["two"]["train/loss"]) == 3
    assert logged["two"]["train/lr"] == logged["one"]["train/lr"]
    for tag in {*logged["one"]} - {"train/tokens_per_second", "train/acc"}:
        assert logged["two"][tag] == pytest.approx(logged["one"][tag], rel=0.02, abs=0.002), tag
    flags[flags.index(1e-3)], flags[flags.index(tmp_path / "one")] = 2e-3, tmp_path / "two"
    status, output = launch(["--num_processes", 2, module, *flags], tmp_path, tmp_path / "other.log")
    assert status == 2
    said = [line for line in output.splitlines() if "error" in line]
    assert said == [
        f"{trainer}: error: {tmp_path / 'two'} was trained with adam.lr = 0.001, not 0.002: "
        "give another --ckpt.output_dir, or remove that folder"
    ]
    assert "Traceback" not in output


def test_mistake_under_two_processes_ends_with_status_2_and_one_line(tiny_model, tmp_path):
    flags = ["--model.model_name_or_path", tiny_model, "--data.dataset", "none.jsonl", "--ckpt.output_dir", "out"]
    words = ["--num_processes", 2, "openrlhf_negdata.cli.train_step_dpo", *flags]
    status, output = launch(words, tmp_path, tmp_path / "log")
    assert status == 2
    assert output == "train_step_dpo: error: no such file: none.jsonl\n"


@pytest.mark.parametrize("module", ["openrlhf.cli.train_sfd", "openrlhf_negdata.cly.train_sft", ".train"])
def test_unknown_module_ends_with_status_2_and_one_line(module, capsys):
    assert main(["launch", module]) == 2
    assert capsys.readouterr().err == f"negdata launch: error: no module {module}\n"


def test_a_package_that_is_not_installed_ends_with_status_2_and_who_knows_how_to_install_it(capsys):
    assert main(["launch", "no_such_package.train"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("negdata launch: error: No module named 'no_such_package': `negdata doctor` says ")
    assert told.count("\n") == 1


def test_launch_by_its_path_in_a_folder_whose_name_holds_a_space(tiny_model, tmp_path):
    """An environment there, of which nothing is on PATH, as cron and other people's scripts run a command."""
    environment = tmp_path / "my folder" / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    ours = Path(openrlhf_negdata.__file__).parents[1]  # An editable install may be found without being on sys.path.
    (site / "ours.pth").write_text("\n".join([str(ours), *(path for path in sys.path if os.path.isdir(path))]))
    (environment / "bin" / "ninja").symlink_to(Path(sys.executable).with_name("ninja"))
    flags = ["--model.model_name_or_path", tiny_model, "--data.dataset", "none.jsonl", "--ckpt.output_dir", "out"]
    words = ["-m", "openrlhf_negdata.cli.main", "launch", "openrlhf_negdata.cli.train_step_dpo", *flags]
    compiler = os.path.dirname(shutil.which("g++"))
    done = subprocess.run(
        [environment / "bin" / "python", *words],
        env={"PATH": f"{compiler}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"},
        cwd=tmp_path / "my folder",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "train_step_dpo: error: no such file: none.jsonl\n")


@pytest.fixture
def with_cuda(monkeypatch):
    """``with_cuda(words)``: the command that `negdata launch` becomes where there is CUDA, and its environment."""
    monkeypatch.setattr("openrlhf_negdata.cpu.without_cuda", lambda: False)

    class Became(BaseException):
        """What comes after execv is not reached."""

    def become(path, command):
        raise Became(path, command, dict(os.environ))

    monkeypatch.setattr(os, "execv", become)

    def launched(words):
        with pytest.raises(Became) as became:
            main(["launch", *words])
        return became.value.args

    return launched


def test_the_flags_of_deepspeed_s_launcher_reach_it(with_cuda, monkeypatch, tmp_path):
    """DeepSpeed's own parser reads the command."""
    monkeypatch.chdir(tmp_path)
    from deepspeed.launcher.runner import parse_args

    given = ["--include", "worker-0@worker-1:0,1", "--master_port", "2900", "--no_ssh_check"]
    given += ["--launcher_args", "-x --y=1"]
    path, command, _ = with_cuda([*given, "openrlhf.cli.train_sft", "--data.dataset", "my data", "--include", "mine"])
    assert [path, *command[:3]] == [sys.executable, sys.executable, "-m", "deepspeed.launcher.runner"]
    read = parse_args(command[3:])
    assert (read.include, read.master_port, read.no_ssh_check) == ("worker-0@worker-1:0,1", 2900, True)
    assert read.launcher_args == "-x --y=1"
    assert read.module
    assert read.user_script == "openrlhf.cli.train_sft"
    assert read.user_args == ["--data.dataset", "my data", "--include", "mine"]
    _, command, _ = with_cuda(["--num_processes", "4", "openrlhf.cli.train_sft"])
    assert parse_args(command[3:]).num_gpus == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--num_processes", "2", "--include", "localhost:0"], "--num_processes with --include or --exclude"),
        (["--hostfile", "hosts"], "no space may be there"),
    ],
)
def test_what_deepspeed_s_launcher_cannot_do_is_refused(with_cuda, monkeypatch, tmp_path, capsys, words, says):
    (tmp_path / "my folder").mkdir()
    monkeypatch.chdir(tmp_path / "my folder")
    monkeypatch.setattr(os, "execv", None)
    assert main(["launch", *words, "openrlhf.cli.train_sft"]) == 2
    assert says in capsys.readouterr().err


def test_deepspeed_s_flags_are_refused_without_cuda(capsys):
    assert main(["launch", "--hostfile", "hosts", "openrlhf.cli.train_sft"]) == 2
    assert "--hostfile is for DeepSpeed's launcher, which needs CUDA" in capsys.readouterr().err


def test_kernels_are_built_and_loaded_inside_the_environment(with_cuda, monkeypatch, tmp_path):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    _, _, environment = with_cuda(["openrlhf.cli.train_sft"])
    inside = str(Path(sys.prefix) / "share" / "torch_extensions")
    assert environment["TORCH_EXTENSIONS_DIR"] == inside
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert with_cuda(["openrlhf.cli.train_sft"])[2]["TORCH_EXTENSIONS_DIR"] == str(tmp_path)
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    # A process of its own loads what DeepSpeed compiled; the system says from which files.
    code = "from openrlhf_negdata import cpu\ncpu.setup()\nprint(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {line.split(maxsplit=5)[-1] for line in done.stdout.splitlines() if line.endswith("fused_adam.so")}
    assert loaded
    assert all(file.startswith(f"{inside}/") for file in loaded)
