"""Run a module that trains, stock OpenRLHF or ours, on CPU and on GPU hosts alike.

    negdata launch openrlhf.cli.train_sft --model.model_name_or_path ... --data.dataset ...
    negdata launch --num_processes 2 openrlhf_negdata.cli.train_step_dpo ...

With CUDA it is `deepspeed --module MODULE ARGS`. Without, it runs the module under openrlhf_negdata.cpu, one gloo
process (or --num_processes of them, under torchrun), and asks OpenRLHF's own commands for
`--ds.attn_implementation sdpa` unless you name one, since their default needs flash-attn. Everything after MODULE is
the module's own.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys

from openrlhf_negdata import cpu
from openrlhf_negdata.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num_processes", type=int, default=0, help="processes; 0: one a GPU, or one on CPU")
    parser.add_argument("module", help="such as openrlhf.cli.train_sft")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the module's own")


def run(args: argparse.Namespace) -> None:
    try:
        found = importlib.util.find_spec(args.module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise UserError(f"no module {args.module}")
    if args.num_processes < 0:
        raise UserError(f"--num_processes must be 0 or more, not {args.num_processes}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not cpu.without_cuda():
        launcher = ["deepspeed", *(["--num_gpus", str(args.num_processes)] if args.num_processes else []), "--module"]
        os.execvp(launcher[0], [*launcher, args.module, *args.arguments])
    cpu.check_compiler()
    attention = "--ds.attn_implementation"
    stock = args.module.startswith(("openrlhf.cli.train_", "openrlhf.cli.serve_"))
    if stock and not any(word == attention or word.startswith(f"{attention}=") for word in args.arguments):
        args.arguments += [attention, "sdpa"]
    command = ["-m", "openrlhf_negdata.cpu", args.module, *args.arguments]
    if args.num_processes > 1:
        _torchrun(["--standalone", "--nproc_per_node", str(args.num_processes), *command[1:]])
    else:
        os.execv(sys.executable, [sys.executable, *command])


def _torchrun(command: list[str]) -> None:
    """`torchrun --module COMMAND`, but with the exit status of the process that failed: torchrun's own is always 1."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun.main(["--module", *command])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode != 2:  # a mistake of the user has had its line
            print(error, file=sys.stderr)
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
