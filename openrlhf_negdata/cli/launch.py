"""Run a module that trains, stock OpenRLHF or ours, on CPU and on GPU hosts alike.

    negdata launch openrlhf.cli.train_sft --model.model_name_or_path ... --data.dataset ...
    negdata launch --num_processes 2 openrlhf_negdata.cli.train_step_dpo ...

    negdata launch --hostfile hosts --include worker-0@worker-1:0,1 openrlhf.cli.train_sft ...

With CUDA it is `deepspeed --module MODULE ARGS`, and the flags of DeepSpeed's launcher below go to it. Without, it
runs the module under openrlhf_negdata.cpu, one gloo process (or --num_processes of them, under torchrun), and asks
OpenRLHF's own commands for `--ds.attn_implementation sdpa` unless you name one, since their default needs flash-attn.
Everything after MODULE is the module's own.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import signal
import sys

from openrlhf_negdata import cpu
from openrlhf_negdata.errors import UserError

#: Flags of DeepSpeed's launcher that are passed on (deepspeed/launcher/runner.py, parse_args).
HOSTS = {
    "--hostfile": "file of nodes, such as: worker-0 slots=8",
    "--include": "nodes and GPUs to use, such as worker-0@worker-1:0,2, or localhost:0,1",
    "--exclude": "nodes and GPUs to leave out",
    "--num_nodes": "use the first this many nodes",
    "--master_addr": "address of the first node",
    "--master_port": "its port",
    "--node_rank": "number of this node, with --no_ssh",
    "--launcher": "pdsh, openmpi, mvapich, slurm, mpich or impi",
    "--launcher_args": "that launcher's own flags, in one word",
    "--ssh_port": "port of ssh on the nodes",
    "--venv_script": "script that each node sources first",
}
SWITCHES = {
    "--no_ssh": "run this node's processes alone: the command is given on every node",
    "--no_ssh_check": "do not try ssh first",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num_processes", type=int, default=0, help="processes; 0: one a GPU, or one on CPU")
    several = parser.add_argument_group("DeepSpeed's launcher, with CUDA")
    for flag, told in HOSTS.items():
        several.add_argument(flag, default=argparse.SUPPRESS, help=told)
    for flag, told in SWITCHES.items():
        several.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=told)
    parser.add_argument("module", help="such as openrlhf.cli.train_sft")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the module's own")


def run(args: argparse.Namespace) -> None:
    try:
        found = importlib.util.find_spec(args.module)
    except ImportError as error:
        if error.name == args.module.partition(".")[0]:
            raise  # a package that is not installed: `negdata doctor` knows how
        found = None
    except ValueError:
        found = None
    if found is None:
        raise UserError(f"no module {args.module}")
    if args.num_processes < 0:
        raise UserError(f"--num_processes must be 0 or more, not {args.num_processes}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not cpu.without_cuda():
        os.environ["TORCH_EXTENSIONS_DIR"] = str(cpu.kernel_folder())
        cpu.on_path("ninja")
        command = deepspeed_command(args)
        os.execv(command[0], command)
    if given := _for_deepspeed(args):
        flag = given[0].partition("=")[0]
        raise UserError(f"{flag} is for DeepSpeed's launcher, which needs CUDA: --num_processes works without")
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


def deepspeed_command(args: argparse.Namespace) -> list[str]:
    """DeepSpeed's launcher, by the interpreter that runs now: its folder need not be on PATH, and the first line of a
    script cannot hold a space."""
    given = _for_deepspeed(args)
    named = {word.partition("=")[0] for word in given}
    if args.num_processes and {"--include", "--exclude"} & named:
        raise UserError("--num_processes with --include or --exclude: DeepSpeed takes one or the other")
    if "--hostfile" in named and len(f"{sys.executable} {os.getcwd()}".split()) != 2:
        raise UserError(
            f"--hostfile: DeepSpeed does not quote {sys.executable} and {os.getcwd()}: no space may be there"
        )
    processes = ["--num_gpus", str(args.num_processes)] if args.num_processes else []
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", *given, *processes]
    return [*launcher, "--module", args.module, *args.arguments]


def _for_deepspeed(args: argparse.Namespace) -> list[str]:
    flags = vars(args)
    words = [f"{flag}={flags[flag[2:]]}" for flag in HOSTS if flag[2:] in flags]
    return words + [flag for flag in SWITCHES if flag[2:] in flags]


def _torchrun(command: list[str]) -> None:
    """`torchrun --module COMMAND`, but with the exit status of the process that failed: torchrun's own is always 1."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun.main(["--module", *command])
    except SignalException as error:
        if error.sigval != signal.SIGINT:
            raise
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode != 2:  # a mistake of the user has had its line
            print(error, file=sys.stderr)
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
