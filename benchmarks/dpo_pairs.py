"""What the step_dpo_*.py share: pairs of given lengths, a model, and one run of OpenRLHF's DPOTrainer or of ours.

    python benchmarks/dpo_pairs.py {stock,ours} FOLDER        one run, in a process of its own; called by the others

`stock` is OpenRLHF's unmodified DPOTrainer.fit with its reference model, on padded batches of token ids; `ours` is
StepDPOTrainer.fit and the pass that computes the reference's log-probabilities. Loading, DeepSpeed's start and saving
count on neither side.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any


def parser(doc: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--problems", type=int, default=32, help="problems")
    made.add_argument("--epochs", type=int, default=1)
    made.add_argument("--batch_size", type=int, default=32, help="pairs an update")
    made.add_argument("--micro_batch_size", type=int, default=8, help="pairs a forward pass of the stock trainer")
    made.add_argument(
        "--max_tokens_per_gpu",
        type=int,
        default=0,
        help="tokens of a forward pass of ours; 0: as many as the stock trainer's, with its pads",
    )
    made.add_argument("--lr", type=float, default=1e-5, help="peak learning rate")
    made.add_argument("--layers", type=int, default=4)
    made.add_argument("--width", type=int, default=256)
    made.add_argument("--vocabulary", type=int, default=8192)
    made.add_argument("--repeats", type=int, default=3, help="times each side runs, in turn")
    return made


def prepare(folder: Path, args: argparse.Namespace, pairs: list[dict[str, Any]]) -> None:
    """Write the pairs, an untrained Llama of the flags' size, and the settings both sides share."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    heads = args.width // 64
    config = LlamaConfig(
        vocab_size=args.vocabulary, hidden_size=args.width, intermediate_size=4 * args.width,
        num_hidden_layers=args.layers, num_attention_heads=heads, num_key_value_heads=heads, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "model")
    words = {"<pad>": 0, "</s>": 1} | {f"w{number}": number for number in range(2, args.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(
        folder / "model"
    )
    # The order of a set that `negdata build` made: no pair beside another of its problem but by chance.
    shuffled = random.Random(0).sample(pairs, len(pairs))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in shuffled), encoding="utf-8")
    (folder / "args.json").write_text(json.dumps(vars(args)), encoding="utf-8")


def tokens(draw: random.Random, count: int, vocabulary: int) -> list[int]:
    return [draw.randrange(2, vocabulary) for _ in range(count)]


def distinct(pairs: list[dict[str, Any]]) -> int:
    """The floor: distinct tokens of all pairs, those of each problem together."""
    problems: dict[Any, set[tuple[int, ...]]] = {}
    for pair in pairs:
        seen = problems.setdefault(pair["problem"], set())
        for side in ("chosen_ids", "rejected_ids"):
            ids = pair["prompt_ids"] + pair[side]
            seen.update(tuple(ids[: end + 1]) for end in range(len(ids)))
    return sum(map(len, problems.values()))


def measure(kind: str, folder: Path) -> dict[str, float]:
    """Run one side in a process of its own: seconds of training, peak bytes above those before the model."""
    command = [sys.executable, __file__, kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(args: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    """``repeats`` runs of each side, in turn, as shared machines change their speed from minute to minute."""
    found: dict[str, list[dict[str, float]]] = {"stock": [], "ours": []}
    for _ in range(args.repeats):
        for kind, runs in found.items():
            runs.append(measure(kind, folder))
            print(f"{kind}: {runs[-1]['seconds']:.1f} s, peak {runs[-1]['peak'] / 2**20:,.0f} MiB", flush=True)
    return found


def compare_speed(args: argparse.Namespace, pairs: list[dict[str, Any]]) -> float:
    """Both sides in turn on these pairs: pairs a second, the floor that distinct tokens set; returns how many times as
    many pairs a second ours trains on, by the medians."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args, pairs)
        found = in_turn(args, Path(folder))
    stock, ours = (median(run["seconds"] for run in found[kind]) for kind in ("stock", "ours"))
    longest = max(
        len(pair["prompt_ids"]) + len(pair[side]) for pair in pairs for side in ("chosen_ids", "rejected_ids")
    )
    padded = 2 * longest * len(pairs)
    # Of four passes a token (forward, backward as two, reference), the reference is computed in one epoch alone.
    floor = 4 * args.epochs * padded / ((3 * args.epochs + 1) * distinct(pairs))
    problems = len({pair["problem"] for pair in pairs})
    print(f"{len(pairs)} pairs of {problems} problems, {padded:,} tokens with pads, {distinct(pairs):,} distinct")
    print(f"stock {args.epochs * len(pairs) / stock:.1f} pairs/s, ours {args.epochs * len(pairs) / ours:.1f} pairs/s")
    print(f"{stock / ours:.2f} times as many; by tokens alone {floor:.2f}", flush=True)
    return stock / ours


def _run(kind: str, folder: Path) -> None:
    from openrlhf_negdata import cpu
    from openrlhf_negdata.cli import train_step_dpo
    from openrlhf_negdata.trainers.model import load_actor

    shared = json.loads((folder / "args.json").read_text())
    words = ["--model.model_name_or_path", str(folder / "model"), "--data.dataset", str(folder / "pairs.jsonl")]
    words += ["--train.batch_size", str(shared["batch_size"]), "--train.max_epochs", str(shared["epochs"])]
    words += ["--ds.zero_stage", "0", "--adam.lr", str(shared["lr"]), "--ckpt.output_dir", str(folder / "out")]
    words += ["--ds.attn_implementation", "sdpa", "--ds.param_dtype", cpu.precision()]
    words += ["--logger.tensorboard_dir", str(folder), "--logger.wandb.run_name", kind]
    cpu.setup()
    from openrlhf.utils.config import hierarchize

    args = hierarchize(train_step_dpo.make_parser().parse_args(words))
    args.model.aux_loss_coef, args.ds.packing_samples = 0.0, False
    args.train.micro_batch_size = shared["micro_batch_size"] if kind == "stock" else 1
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    from openrlhf.utils import get_strategy, get_tokenizer

    strategy = get_strategy(args)
    strategy.setup_distributed()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = load_actor(args, strategy, str(folder / "model"), for_training=True)
    tokenizer = get_tokenizer(str(folder / "model"), model.model, "right", strategy)
    common = {"strategy": strategy, "tokenizer": tokenizer, "beta": 0.1, "max_epochs": shared["epochs"]}
    updates = len(rows) * shared["epochs"] // shared["batch_size"]
    if kind == "stock":
        seconds = _stock(args, strategy, model, rows, updates, common, folder)
    else:
        seconds = _ours(args, strategy, model, rows, updates, common, folder, shared)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"seconds": seconds, "peak": peak} | _states(model, copies=2 if kind == "stock" else 1)))


def _states(model: Any, copies: int) -> dict[str, int]:
    """Bytes of what stays in memory from update to update, and of the gradients: all of it known from the number of
    parameters. ``copies`` of the weights: the policy's, and the reference's. In bf16 the optimizer has an fp32 copy of
    weights and gradients beside its two moments."""
    size = sum(parameter.nbytes for parameter in model.parameters())
    full = 4 * sum(parameter.numel() for parameter in model.parameters())
    of_its_own = 0 if size == full else full
    return {"weights": size * copies, "optimizer": 2 * full + of_its_own, "gradients": size + of_its_own}


def _stock(args: Any, strategy: Any, model: Any, rows: list, updates: int, common: dict, folder: Path) -> float:
    import torch
    from openrlhf.datasets import RewardDataset
    from openrlhf.trainer.dpo_trainer import DPOTrainer

    from openrlhf_negdata.trainers.model import load_actor, prepare

    class Tokens(RewardDataset):
        """The host's own collate_fn, on ids in place of text."""

        def __init__(self) -> None:
            self.tokenizer, self.is_dpo = common["tokenizer"], True

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> tuple:
            row = rows[index]
            made = []
            for side in ("chosen_ids", "rejected_ids"):
                ids = torch.tensor([row["prompt_ids"] + row[side]])
                made += [ids, torch.ones_like(ids)]
            return *made, len(row["prompt_ids"])

    data = Tokens()
    reference = load_actor(args, strategy, str(folder / "model"), for_training=False)
    loader = strategy.setup_dataloader(data, args.train.micro_batch_size, False, True, data.collate_fn)
    model, optimizer, scheduler = prepare(args, strategy, model, updates)
    reference = strategy.prepare(reference)
    trainer = DPOTrainer(
        model=model, ref_model=reference, optim=optimizer, scheduler=scheduler, train_dataloader=loader,
        eval_dataloader=None, **common,
    )  # fmt: skip
    begin = time.monotonic()
    trainer.fit(args, 0, updates // args.train.max_epochs)
    return time.monotonic() - begin


def _ours(
    args: Any, strategy: Any, model: Any, rows: list, updates: int, common: dict, folder: Path, shared: dict
) -> float:
    from openrlhf_negdata.trainers.model import prepare
    from openrlhf_negdata.trainers.reference import Reference
    from openrlhf_negdata.trainers.step_dpo import StepDPOTrainer
    from openrlhf_negdata.trainers.tokens import StepPairs
    from openrlhf_negdata.trainers.updates import PairUpdates

    data = StepPairs(rows, 4096)
    # As many tokens at once as the padded batches of the stock trainer hold.
    budget = shared["max_tokens_per_gpu"] or 2 * data.longest * shared["micro_batch_size"]
    plan = PairUpdates(data, args.train.batch_size, args.train.max_epochs, 0, budget)
    model, optimizer, scheduler = prepare(args, strategy, model, updates)
    begin = time.monotonic()
    reference = Reference(folder / f"{os.getpid()}.parquet", "start", args.ds.param_dtype)
    reference.add(model.model, plan, False)
    trainer = StepDPOTrainer(plan, reference.of(data), model=model, optim=optimizer, scheduler=scheduler, **common)
    trainer.fit(args)
    return time.monotonic() - begin


if __name__ == "__main__":
    _run(sys.argv[1], Path(sys.argv[2]))
