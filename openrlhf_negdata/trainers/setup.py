"""What our trainers share with OpenRLHF's own command lines: flags, rows, models and the schedule."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from openrlhf_negdata import cpu, host, models
from openrlhf_negdata.errors import ENDS, UserError, end
from openrlhf_negdata.files import read_jsonl
from openrlhf_negdata.help import HelpFormatter
from openrlhf_negdata.trainers import checkpoints, outputs, processes

_FLAG = "store_true"


def make_parser(name: str, doc: str | None, lr: float, epochs: int) -> argparse.ArgumentParser:
    """The parser of the command line ``name``, with the flags of :func:`add_flags`, and OpenRLHF's defaults of its
    learning rate and epochs."""
    parser = argparse.ArgumentParser(
        prog=name,
        usage=f"{name} --model.model_name_or_path MODEL --data.dataset ROWS --ckpt.output_dir OUT [flags]",
        description=doc,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, lr, epochs)
    return parser


def add_row_flags(parser: argparse.ArgumentParser) -> None:
    """OpenRLHF 0.11.2's flags of trainers whose micro-batches are rows of one sequence each."""
    a = parser.add_argument
    a("--model.aux_loss_coef", type=float, default=0, help="weight of the MoE balancing loss")
    a(
        "--train.micro_batch_size",
        type=int,
        default=8,
        help="rows a process and forward pass: decides memory and speed, never the loss",
    )
    a("--ds.packing_samples", action=_FLAG, help="pack rows without padding (flash-attn, CUDA)")


def add_flags(parser: argparse.ArgumentParser, lr: float, epochs: int) -> None:
    """OpenRLHF 0.11.2's flags for data, model, optimizer, DeepSpeed, checkpoints and logs, with its defaults but for
    those whose help says otherwise."""
    a = parser.add_argument
    a("--model.model_name_or_path", required=True, help="model folder to start from")
    a("--model.trust_remote_code", action=_FLAG, help="run Python code that the model folder carries")
    a("--model.gradient_checkpointing_enable", action=_FLAG, help="trade compute for memory")
    a("--model.gradient_checkpointing_reentrant", action=_FLAG, help="use re-entrant checkpointing")
    a("--data.dataset", required=True, help="training set: .jsonl files of `negdata build`, comma-separated")
    a(
        "--data.max_len",
        type=int,
        default=2048,
        help="longest row in tokens; longer ones are dropped and counted (OpenRLHF's DPO: 512, and cuts them)",
    )
    a(
        "--data.max_samples",
        type=int,
        default=sys.maxsize,
        help="use the first this many rows; OpenRLHF leaves out what is beyond a million",
    )
    a("--eval.dataset", default=None, help="held-out rows of the same kind, .jsonl files, comma-separated")
    a("--eval.steps", type=int, default=-1, help="updates between their evaluations, -1: an epoch's; the last has one")
    a("--train.batch_size", type=int, default=128, help="rows an update, over all processes")
    a("--train.max_epochs", type=int, default=epochs, help="passes over the training set")
    a("--train.seed", type=int, default=42, help="order of the rows, dropout")
    a("--train.full_determinism_enable", action=_FLAG, help="ask torch for deterministic kernels")
    a("--optim", choices=["adam", "muon"], default="adam", help="optimizer")
    a("--adam.lr", type=float, default=lr, help="peak learning rate")
    a("--adam.betas", type=float, nargs=2, default=(0.9, 0.95), help="Adam betas")
    a("--adam.eps", type=float, default=1e-8, help="Adam epsilon")
    a("--adam.weight_decay", type=float, default=0.0, help="decoupled weight decay")
    a("--muon.lr", type=float, default=0.02, help="peak learning rate of Muon's matrices")
    a("--muon.momentum", type=float, default=0.95, help="Muon momentum")
    a("--lr_scheduler", default="cosine_with_min_lr", help="schedule, a name transformers knows")
    a("--lr_warmup_ratio", type=float, default=0.03, help="share of the updates that warm up")
    a("--min_lr_ratio", type=float, default=0.1, help="last learning rate as a share of the peak")
    a("--max_norm", type=float, default=1.0, help="gradient norm to clip at")
    a("--ds.zero_stage", type=int, default=2, help="DeepSpeed ZeRO stage, 0 to 3")
    a(
        "--ds.param_dtype",
        choices=["bf16", "fp16"],
        default="bf16",
        help="parameter type; the optimizer keeps fp32 copies",
    )
    a(
        "--ds.attn_implementation",
        default=None,
        help="attention of transformers (with CUDA flash_attention_2, or flex_attention for step DPO; else sdpa)",
    )
    a("--ds.experts_implementation", default=None, help="MoE experts implementation of transformers")
    a("--ds.adam_offload", action=_FLAG, help="keep the optimizer in host memory")
    a("--ds.zpg", type=int, default=1, help="ZeRO++ partition size")
    a("--ds.grad_accum_dtype", default=None, help="type gradients are accumulated in")
    a("--ds.overlap_comm", action=_FLAG, help="overlap communication and backward")
    a("--ds.load_in_4bit", action=_FLAG, help="load the model in 4 bits (with LoRA, CUDA)")
    a("--ds.lora.rank", type=int, default=0, help="LoRA rank; 0 trains every parameter")
    a("--ds.lora.alpha", type=int, default=16, help="LoRA alpha")
    a("--ds.lora.target_modules", nargs="*", default="all-linear", help="modules LoRA adapts")
    a("--ds.lora.dropout", type=float, default=0, help="LoRA dropout")
    a("--ds.use_liger_kernel", action=_FLAG, help="Liger kernels (CUDA)")
    a("--ds.ring_attn_size", type=int, default=1, help="ring attention: 1 alone")
    a("--ds.tensor_parallel_size", type=int, default=1, help="DeepSpeed tensor parallelism: 1 alone")
    a("--ckpt.output_dir", required=True, help="folder the trained model is written to, whole or not at all")
    a("--ckpt.path", default=None, help="folder of resumable checkpoints (default: .<output_dir>.ckpt beside it)")
    a("--ckpt.save_steps", type=int, default=-1, help="updates between checkpoints; -1: none")
    a(
        "--ckpt.save_hf",
        action=_FLAG,
        help="with each checkpoint, the model as it is then: in OUT.models/global_stepN, which stays",
    )
    a(
        "--ckpt.keep_best",
        action=_FLAG,
        help="keep the model that does best on --eval.dataset, in OUT.models/best_global_stepN: step DPO by the "
        "margin, others by the loss",
    )
    a(
        "--ckpt.max_num",
        type=int,
        default=3,
        help="checkpoints kept, at least 2: the last good one stays while the next is written",
    )
    a("--ckpt.max_mem", type=int, default=int(1e8), help="GB of checkpoints kept, the one being written not counted")
    a("--logger.logging_steps", type=int, default=1, help="updates between logged figures")
    a("--logger.tensorboard_dir", default=None, help="TensorBoard folder")
    a("--logger.wandb.key", default=None, help="Weights & Biases key; none: not used")
    a("--logger.wandb.org", default=None, help="W&B entity")
    a("--logger.wandb.group", default=None, help="W&B group")
    a("--logger.wandb.project", default="openrlhf_negdata", help="W&B project")
    a("--logger.wandb.run_name", default=datetime.now().strftime("exp_%m%dT%H:%M"), help="name of the run")
    a("--local_rank", type=int, default=-1, help="set by the DeepSpeed launcher")


def run(
    parser: argparse.ArgumentParser, train: Callable[[Any, Any], None], attention: str = "flash_attention_2"
) -> int:
    """Parse the command line, check its inputs, and ``train(args, strategy)`` unless the output is there already.
    Returns the exit status. ``attention``: what transformers uses on CUDA unless told otherwise."""
    flat = parser.parse_args()
    flags = vars(flat)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        _check(flags)
        alone = processes.count() == 1
        # Before anything heavy is imported. Several processes must meet first: one of them tells the others.
        settings = outputs.claim(flags) if alone else None
        if alone and settings is None:
            return 0
        host.check_release()
        cpu.setup()
        from openrlhf.utils.config import hierarchize

        args = hierarchize(flat)
        args.ckpt.path = args.ckpt.path or str(checkpoints.folder_of(Path(args.ckpt.output_dir)))
        if args.ds.attn_implementation is None:
            args.ds.attn_implementation = "sdpa" if cpu.without_cuda() else attention
        strategy = _strategy(args)
        args.settings = settings if alone else processes.from_rank_0(lambda: outputs.claim(flags))
        if args.settings is not None:
            train(args, strategy)
    except ENDS as error:
        if processes.rank():
            # Rank 0 sees the user's mistake too; the launcher ends the others when it has said so.
            time.sleep(5)
            if getattr(error, "told", False):
                return 2
        return end(parser.prog, error)
    return 0


def _strategy(args: Any) -> Any:
    """OpenRLHF's strategy, its processes met.

    DeepSpeed is told of as many micro-batches an update as a process may make, one a row. Their number is another
    from update to update, and Loop says which is the last. It must not be told of one alone: with the optimizer
    offloaded it then keeps the gradients of the last one only (runtime/zero/stage_1_and_2.py:1576).
    """
    from openrlhf.utils import get_strategy

    strategy = get_strategy(args)
    strategy.micro_train_batch_size = 1
    strategy.train_batch_size = args.train.batch_size * processes.count()
    strategy.setup_distributed()
    return strategy


def _check(flags: dict[str, Any]) -> None:
    """Raise for what would otherwise end in a traceback, perhaps after hours."""
    for path in ",".join(filter(None, (flags["data.dataset"], flags["eval.dataset"]))).split(","):
        if not Path(path).is_file():
            raise UserError(f"no such file: {path}")
    models.check_model(flags["model.model_name_or_path"], flags["model.trust_remote_code"])
    _check_numbers(flags)
    _check_host(flags)
    output = Path(flags["ckpt.output_dir"])
    for flag in ("ckpt.path", "logger.tensorboard_dir"):
        if flags[flag] and Path(flags[flag]).resolve().is_relative_to(output.resolve()):
            raise UserError(f"--{flag} {flags[flag]} is inside --ckpt.output_dir, which is written last and whole")
    if flags["ckpt.save_hf"] and flags["ckpt.save_steps"] == -1:
        raise UserError("--ckpt.save_hf saves with each checkpoint: give --ckpt.save_steps too")
    if flags["ckpt.keep_best"] and not flags["eval.dataset"]:
        raise UserError("--ckpt.keep_best needs --eval.dataset, the held-out rows that say which model is the best")


def _check_numbers(flags: dict[str, Any]) -> None:
    counts = ("batch_size", "micro_batch_size", "max_tokens_per_gpu", "max_pairs_per_problem", "max_epochs")
    for flag in (*(f"train.{name}" for name in counts), "logger.logging_steps"):
        if flag in flags and flags[flag] < 1:
            raise UserError(f"--{flag} must be at least 1, not {flags[flag]}")
    for flag, never in (("ckpt.save_steps", "none"), ("eval.steps", "once an epoch")):
        if flags[flag] < 1 and flags[flag] != -1:
            raise UserError(f"--{flag} must be at least 1, or -1 for {never}, not {flags[flag]}")
    if flags["ckpt.max_num"] < 2:
        raise UserError(
            "--ckpt.max_num must be at least 2: a kill while the only checkpoint is replaced would lose it"
        )


def _check_host(flags: dict[str, Any]) -> None:
    """What OpenRLHF and DeepSpeed do not do, or not here."""
    for flag in ("ds.ring_attn_size", "ds.tensor_parallel_size"):
        if flags[flag] != 1:
            raise UserError(
                f"--{flag} must be 1: these trainers cut no sequence and no layer; ZeRO spreads a large model"
            )
    for flag in ("ds.packing_samples", "ds.load_in_4bit", "ds.use_liger_kernel"):
        if flags.get(flag) and cpu.without_cuda():
            raise UserError(f"--{flag} needs CUDA")
    if flags["ds.param_dtype"] == "fp16" and cpu.without_cuda():
        raise UserError("--ds.param_dtype fp16 needs CUDA: DeepSpeed trains in bf16 on CPU")
    if flags["logger.wandb.key"] and importlib.util.find_spec("wandb") is None:
        raise UserError("--logger.wandb.key needs wandb: pip install wandb")
    if flags["ds.adam_offload"] and flags["ds.zero_stage"] == 0:
        raise UserError("--ds.adam_offload needs --ds.zero_stage 1 or more: DeepSpeed ignores it at stage 0")
    if flags.get("ref.offload"):
        if not flags["ref.model_name_or_path"]:
            raise UserError("--ref.offload needs --ref.model_name_or_path: else no second model is loaded")
        if flags["ds.zero_stage"] != 3:
            raise UserError(
                "--ref.offload needs --ds.zero_stage 3: DeepSpeed moves parameters to the host there alone"
            )


def read_rows(paths: str, fields: tuple[str, ...], model: Any, weights: bool = False) -> Iterator[dict[str, Any]]:
    """The token ids of a set, of files separated by commas, lazily: ``fields`` of every row, each a list of ids that
    ``model`` knows; its ``problem`` and ``weight``, if it has them; and with ``weights`` its ``step_ends`` and
    ``weights``, which another trainer must not pass over."""
    known = model.model.get_input_embeddings().num_embeddings

    def parse(row: dict[str, Any], _: int) -> dict[str, Any]:
        for field in fields:
            # By its type: to isinstance, true is an integer.
            if not isinstance(row[field], list) or not {*map(type, row[field])} <= {int}:
                raise ValueError(f"{field} is not a list of token ids (build the set with --tokenizer)")
            if row[field] and not 0 <= min(row[field]) <= max(row[field]) < known:
                raise ValueError(f"{field} has ids that are none of the model's {known}: built for another model?")
        if not weights and "weights" in row:
            raise ValueError("it has weights: train on it with openrlhf_negdata.cli.train_advantage_weighted")
        if weights:
            _check_weights(row["step_ends"], row["weights"], len(row["response_ids"]))
        if not 0 <= row.get("weight", 1.0) < math.inf:
            raise ValueError(f"weight is {row['weight']}, and must be 0 or more")
        optional = tuple(field for field in ("problem", "weight") if field in row)
        return {field: row[field] for field in (*fields, *optional, *(("step_ends", "weights") if weights else ()))}

    return itertools.chain.from_iterable(read_jsonl(file, parse) for file in paths.split(","))


def _check_weights(ends: Any, weights: Any, tokens: int) -> None:
    if not isinstance(ends, list) or not isinstance(weights, list) or len(ends) != len(weights):
        raise ValueError("step_ends and weights are not two lists of one length")
    if not {*map(type, ends)} <= {int} or ends != sorted(set(ends)) or (ends and (ends[0] < 1 or ends[-1] != tokens)):
        raise ValueError(f"step_ends {ends} do not rise to the {tokens} tokens of the response")
    if not all(type(weight) in (int, float) and math.isfinite(weight) for weight in weights):
        raise ValueError("weights are not all finite numbers")


def load_actor(args: Any, strategy: Any, name: str, for_training: bool) -> Any:
    """OpenRLHF's Actor around the model called ``name``; LoRA and checkpointing only where it is trained."""
    from openrlhf.models import Actor

    lora = args.ds.lora
    actor = Actor(
        str(models.resolve(name)),
        attn_implementation=args.ds.attn_implementation,
        experts_implementation=args.ds.experts_implementation,
        param_dtype=args.ds.param_dtype,
        load_in_4bit=args.ds.load_in_4bit,
        lora_rank=lora.rank if for_training else 0,
        lora_alpha=lora.alpha,
        target_modules=lora.target_modules,
        lora_dropout=lora.dropout,
        ds_config=strategy.get_ds_train_config() if for_training else strategy.get_ds_eval_config(args.ref.offload),
        packing_samples=getattr(args.ds, "packing_samples", False),
        use_liger_kernel=args.ds.use_liger_kernel,
    )
    if for_training and args.model.gradient_checkpointing_enable:
        actor.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": args.model.gradient_checkpointing_reentrant}
        )
    # What OpenRLHF's strategy looks up when it prepares a model that is not trained (cli/train_dpo.py:52).
    actor._offload = not for_training and args.ref.offload
    return actor


def optimizer_config(args: Any, updates: int) -> dict[str, Any]:
    """What ``strategy.prepare`` wants, for a schedule of so many ``updates``: those that are made, across epochs.
    (train_dpo.py:126 floors them epoch by epoch, so that its learning rate rises again at the end.)"""
    return {
        "optim": args.optim,
        "muon": vars(args.muon),
        "adam": vars(args.adam),
        "lr_scheduler": args.lr_scheduler,
        "lr_warmup_ratio": args.lr_warmup_ratio,
        "min_lr_ratio": args.min_lr_ratio,
        "max_norm": args.max_norm,
        "scheduler_steps": updates,
    }


def prepare(args: Any, strategy: Any, model: Any, updates: int) -> Any:
    """``strategy.prepare`` of the trained model, for so many ``updates``: model, optimizer, scheduler.

    At ZeRO stage 0 DeepSpeed allocates the optimizer's state by an update with gradients of zero (runtime/fp16/
    fused_optimizer.py:128, unfused_optimizer.py:420). It decays the weights, and it counts, so that Adam's bias
    correction would be one update ahead of what it is at stages 1 to 3; here it is taken back.
    """
    model, optimizer, scheduler = strategy.prepare((model, optimizer_config(args, updates)))
    if args.ds.zero_stage == 0:
        import torch

        flat = hasattr(optimizer, "fp32_groups_flat")
        low = optimizer.fp16_groups_flat if flat else itertools.chain(*optimizer.fp16_groups)
        full = optimizer.fp32_groups_flat if flat else itertools.chain(*optimizer.fp32_groups)
        with torch.no_grad():
            for rounded, weights in zip(low, full, strict=True):
                weights.copy_(rounded)
        for state in optimizer.optimizer.state.values():
            if "step" in state:
                state["step"] = 0
    return model, optimizer, scheduler
