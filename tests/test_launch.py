"""`negdata launch`: stock OpenRLHF and our trainers, as a user runs them."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.files import read_jsonl

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
    rows = list(read_jsonl(folder / "train_sft.jsonl", lambda row, _: row))
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
        for number, row in enumerate(read_jsonl(data / "train_dpo.jsonl", lambda row, _: row)):
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


@pytest.mark.parametrize("module", ["no_such_package.train", "openrlhf.cli.train_sfd"])
def test_unknown_module_ends_with_status_2_and_one_line(module, capsys):
    assert main(["launch", module]) == 2
    assert capsys.readouterr().err == f"negdata launch: error: no module {module}\n"
