"""``negdata``: one sub-command an arrow of the data flow, each one module of this package with ``add_arguments`` and
``run``."""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from typing import NoReturn

from openrlhf_negdata import __version__
from openrlhf_negdata.errors import ENDS, end, leave
from openrlhf_negdata.help import HelpFormatter

COMMANDS = {
    "doctor": "say what this machine has, what is missing, and the command that mends it",
    "problems": "write fresh problems of a task that has a generator",
    "synthesize": "let a stronger model write new problems and solutions: D_syn",
    "new_model": "make an untrained small model for a task with a small vocabulary",
    "launch": "run an OpenRLHF command, such as openrlhf.cli.train_sft, on CPU and on GPU hosts alike",
    "sample": "let a policy answer problems",
    "grade": "grade answers: correct, wrong, truncated, no_answer, timed_out or failed",
    "import": "make a run of answers that were made elsewhere, with step values and rollouts or without",
    "value": "estimate, by Monte Carlo rollouts, the chance of success before every step of every answer",
    "show": "say what a run folder holds: what is done and owed, outcomes, throughput",
    "build": "turn problems, graded answers and step values into a training set, with a card that accounts for each",
    "evaluate": "measure the test error of one or more policies, with intervals over problems",
    "report": "one table, and one HTML page with plots and coloured traces",
}
#: A command whose name can be no module's.
MODULES = {"import": "import_answers"}


def main(argv: list[str] | None = None) -> int:
    """Run one command. Exit status: 0 done, 2 for a bad argument or input, with one line that says what and where;
    130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    chosen = next((word for word in argv if not word.startswith("-")), None)
    try:
        _run(argv, chosen)
    except ENDS as error:
        return end(f"negdata {chosen}", error)
    return 0


def _run(argv: list[str], chosen: str | None) -> None:
    if not sys.warnoptions:
        # What torch and transformers will change in a later release is no news to who runs a command.
        warnings.simplefilter("ignore", FutureWarning)
    parser = argparse.ArgumentParser(
        prog="negdata",
        description="Learn from wrong answers: sample, grade, value each step, build training sets, evaluate, report.",
        epilog="`negdata COMMAND --help` explains every flag of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = {}
    for name, summary in COMMANDS.items():
        if name != chosen:
            commands.add_parser(name, help=summary)
            continue
        # Only the chosen command is imported: `negdata grade` must not wait for torch or vllm.
        modules[name] = importlib.import_module(f"openrlhf_negdata.cli.{MODULES.get(name, name)}")
        command = commands.add_parser(
            name, help=summary, description=modules[name].__doc__, formatter_class=HelpFormatter, allow_abbrev=False
        )
        modules[name].add_arguments(command)
    args = parser.parse_args(argv, argparse.Namespace(words=argv[1:]))
    modules[args.command].run(args)


def command() -> NoReturn:
    """What the shell runs."""
    leave(main())


if __name__ == "__main__":
    command()
