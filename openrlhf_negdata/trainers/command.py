"""A trainer's command line: its inputs checked, its output claimed, its processes met."""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openrlhf_negdata import cpu, host, models
from openrlhf_negdata.errors import ENDS, UserError, end
from openrlhf_negdata.trainers import checkpoints, outputs, processes


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
        flags["ds.param_dtype"] = flags["ds.param_dtype"] or cpu.precision()
        if settings:
            settings["ds.param_dtype"] = flags["ds.param_dtype"]
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
        raise UserError("--ds.param_dtype fp16 needs CUDA: DeepSpeed trains in fp32 or bf16 on CPU")
    if flags["ds.param_dtype"] == "fp32" and not cpu.without_cuda():
        raise UserError("--ds.param_dtype fp32 is for hosts without CUDA: its optimizer keeps fp32 copies in any case")
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
