"""Make the report of an evaluation: summary.json, report.html, and the table on standard output.

report.html is one file that needs no network: test error of every arm with 95 % intervals over problems, differences
on the same problems, Q by step, pass@k and maj@k, time by stage, settings, the loss by update of the models that our
trainers made, and traces with every step coloured by its advantage.

    negdata report --evaluation evaluation --values values --output report --compare dpo:rft
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.steps.rules import PITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from openrlhf_negdata.analysis.tables import Table
    from openrlhf_negdata.rollouts.store import Run

#: Columns of a table that is not printed to a terminal.
WIDTH = 119


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--evaluation", required=True, metavar="DIR", help="folder that `negdata evaluate` made")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for summary.json and report.html")
    parser.add_argument("--values", metavar="DIR", help="folder that `negdata value` made, to show traces from")
    parser.add_argument(
        "--model.trust_remote_code", action="store_true", help="run Python code that the tokenizer of --values carries"
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        default=[],
        metavar="DIR",
        help="runs of `negdata sample` and `value` whose answers, rollouts and tokens are told by stage; that of "
        "--values is anyway",
    )
    parser.add_argument("--times", metavar="FILE", help='time by stage, rows {"stage": "sample", "seconds": 12.3}')
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="A:B",
        help="more differences: the test error of arm A less that of arm B. Without it every arm is compared with "
        "sft, and arms whose name begins with step_dpo with dpo and with the best of sft, control and rft",
    )
    parser.add_argument(
        "--pit",
        choices=PITS,
        default="lowest_q",
        help="which step of a wrong trace is marked as the one that lost it: give the --pit that the pairs were built "
        "with",
    )
    parser.add_argument("--traces", type=int, default=12, metavar="N", help="traces to show, half wrong, half correct")


def run(args: argparse.Namespace) -> None:
    # scipy takes a second to import: `--help` does not wait for it.
    from openrlhf_negdata.analysis import page, summary, tables
    from openrlhf_negdata.analysis.curves import read_curves
    from openrlhf_negdata.analysis.traces import ShownTrace, choose_traces
    from openrlhf_negdata.files import replacing, write_json
    from openrlhf_negdata.rollouts.store import Run

    if args.traces < 0:
        raise UserError(f"--traces {args.traces}: want 0 or more")
    arms, settings = summary.read_evaluation(args.evaluation)
    seconds = summary.read_times(args.times) if args.times else {}
    spent = _spent([*args.runs, *([args.values] if args.values else [])])
    said = summary.summarize(arms, settings, seconds, [pair_of_arms(word) for word in args.compare], spent)
    traces: list[ShownTrace] = []
    outcomes = Counter[str]()
    if args.values:
        values = Run.open(args.values)
        traces, outcomes = choose_traces(
            values, args.traces, _decoder(values, vars(args)["model.trust_remote_code"]), args.pit
        )

    curves = read_curves(arms)
    output = Path(args.output)
    write_json(output / "summary.json", said)
    with replacing(output / "report.html") as file:
        file.write(page.page(said, arms[0].task, traces, outcomes, curves))
    print(f"wrote {output / 'summary.json'} and {output / 'report.html'}\n")
    print_tables([table for about, table in tables.of_summary(said).items() if about != "settings"])


def _spent(runs: Iterable[str]) -> dict[str, dict[str, float]]:
    """What the engines made of each run, added up by its command; of one that was made without engines, nothing."""
    from openrlhf_negdata.analysis.summary import SPENT
    from openrlhf_negdata.rollouts.store import TABLES, Run

    total: dict[str, Counter[str]] = {}
    for path in dict.fromkeys(Path(run).resolve() for run in runs):
        run = Run.open(path, complete=False)
        command = run.manifest["command"]
        if speed := run.speed(TABLES[command][-1]):
            total.setdefault(command, Counter()).update(speed)
    return {command: {name: float(made[name]) for name in SPENT} for command, made in total.items()}


def pair_of_arms(word: str) -> tuple[str, str]:
    first, colon, second = word.partition(":")
    if not (first and colon and second):
        raise UserError(f"--compare {word}: write A:B, the names of two arms")
    return first, second


def print_tables(made: Iterable[Table]) -> None:
    """Tables on standard output, plain text of one width where it is not a terminal."""
    from rich.console import Console

    from openrlhf_negdata.analysis.tables import for_terminal

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for table in made:
        console.print(for_terminal(table, console.width))


def _decoder(values: Run, trust_remote_code: bool) -> Callable[[list[int]], str]:
    """Token ids to text, with the tokenizer that the value run carries."""
    tokenizer = values.tokenizer(trust_remote_code)
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
