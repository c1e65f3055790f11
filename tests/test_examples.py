"""The examples: trainers of others on our pairs. The ids that reach the loss are those of the rows, and no other."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
#: A prompt, and two continuations. No text gives these ids, of words in the middle of an answer; 1 is no end token.
ROWS = [
    {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9, 10], "rejected_ids": [8, 11]},
    {"prompt_ids": [5, 6, 7, 8, 8], "chosen_ids": [12], "rejected_ids": [13, 8, 9, 10]},
    {"prompt_ids": [9], "chosen_ids": [5, 5, 5, 5], "rejected_ids": [6]},
    {"prompt_ids": [5, 9, 9], "chosen_ids": [10, 11], "rejected_ids": [10, 10]},
]
#: Runs an example and writes what its loss was given: ids, and which of them count.
TRL = """
import json, runpy, sys
from trl import DPOTrainer
script, seen, *sys.argv[1:] = sys.argv[1:]
compute = DPOTrainer._compute_loss
def record(self, model, inputs, *args, **more):
    with open(seen, "a") as file:
        for ids, mask, counted in zip(*(inputs[name].tolist() for name in NAMES)):
            kept = [(i, c) for i, m, c in zip(ids, mask, counted) if m]
            print(json.dumps([[i for i, _ in kept], [c for _, c in kept]]), file=file)
    return compute(self, model, inputs, *args, **more)
NAMES = ("input_ids", "attention_mask", "completion_mask")
DPOTrainer._compute_loss = record
runpy.run_path(script, run_name="__main__")
"""
OPENRLHF = """
import json, runpy, sys
from openrlhf_negdata import cpu
cpu.setup()
from openrlhf.trainer.dpo_trainer import DPOTrainer
script, seen, *sys.argv[1:] = sys.argv[1:]
joined = DPOTrainer.concatenated_inputs
def record(self, *batch):
    ids, masks, lengths = joined(self, *batch)
    with open(seen, "a") as file:
        for row, mask, length in zip(ids.tolist(), masks.tolist(), lengths):
            kept = [i for i, m in zip(row, mask) if m]
            print(json.dumps([kept, [int(at >= length) for at in range(len(kept))]]), file=file)
    return ids, masks, lengths
DPOTrainer.concatenated_inputs = record
runpy.run_path(script, run_name="__main__")
"""


def sides(rows: list[dict]) -> list:
    """The sequences of the pairs, and which of their tokens count in the loss."""
    return sorted(
        [row["prompt_ids"] + row[side], [0] * len(row["prompt_ids"]) + [1] * len(row[side])]
        for row in rows
        for side in ("chosen_ids", "rejected_ids")
    )


def run(example: str, recorder: str, folder: Path, rows: list[dict], flags: list[str]):
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row | {"prompt": "p", "chosen": "c", "rejected": "r"}) + "\n" for row in rows))
    words = [str(EXAMPLES / example), str(folder / "seen.jsonl"), *flags]
    command = [sys.executable, "-c", recorder, *(word.replace("@", f"{folder}/") for word in words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def seen(folder: Path) -> list:
    return [json.loads(line) for line in (folder / "seen.jsonl").read_text().splitlines()]


def test_trl_trains_on_the_very_ids_of_the_rows(tiny_model, tmp_path):
    flags = f"--model {tiny_model} --pairs @pairs.jsonl --output_dir @trained --use_cpu --report_to none"
    more = "--num_train_epochs 1 --per_device_train_batch_size 2 --learning_rate 1e-3 --bf16 False"
    done = run("trl_dpo.py", TRL, tmp_path, ROWS, f"{flags} {more}".split())
    assert done.returncode == 0, done.stderr[-4000:]
    assert sorted(seen(tmp_path)) == sides(ROWS)
    assert (tmp_path / "trained" / "config.json").is_file()


def test_stock_openrlhf_trains_on_the_very_ids_of_the_rows(tiny_model, tmp_path):
    long = {"prompt_ids": [5] * 30, "chosen_ids": [8], "rejected_ids": [9]}
    flags = f"--model.model_name_or_path {tiny_model} --data.dataset @pairs.jsonl --ckpt.output_dir @trained"
    more = "--ds.attn_implementation sdpa --ds.zero_stage 0 --train.batch_size 2 --train.micro_batch_size 2"
    more += f" --train.max_epochs 1 --data.max_len 16 --ref.model_name_or_path {tiny_model}"
    done = run("openrlhf_dpo.py", OPENRLHF, tmp_path, [*ROWS, long], f"{flags} {more}".split())
    assert done.returncode == 0, done.stderr[-4000:]
    assert "4 pairs, 1 over --data.max_len left out" in done.stdout
    assert sorted(seen(tmp_path)) == sorted(2 * sides(ROWS))  # the policy's, and the reference's
    assert (tmp_path / "trained" / "config.json").is_file()


@pytest.mark.parametrize(
    ("row", "says"),
    [(ROWS[0] | {"weight": 0.5}, "its pairs have weights"), ({"prompt": "p", "chosen": "c"}, "no prompt_ids")],
)
def test_pairs_whose_weights_would_be_passed_over_or_that_are_text_are_refused(tmp_path, row, says):
    from datasets import Dataset

    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit, match=says):
        runpy.run_path(str(EXAMPLES / "trl_dpo.py"))["read_pairs"](str(tmp_path / "pairs.jsonl"))
    with pytest.raises(SystemExit, match=says):
        runpy.run_path(str(EXAMPLES / "openrlhf_dpo.py"))["TokenPairs"](Dataset.from_list([row]), None, 16, None)
