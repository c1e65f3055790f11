"""Make the report of an evaluation: summary.json, report.html, and the table on standard output.

report.html is one file that needs no network: test error of every arm with 95 % intervals over problems, differences
on the same problems, Q by step, time by stage, settings, and traces with every step coloured by its advantage.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_negdata.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from openrlhf_negdata.rollouts.store import Run

#: Columns of a table that is not printed to a terminal.
WIDTH = 119


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--evaluation", required=True, metavar="DIR", help="folder that `negdata evaluate` made")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for summary.json and report.html")
    parser.add_argument("--values", metavar="DIR", help="folder that `negdata value` made, to show traces from")
    parser.add_argument("--times", metavar="FILE", help='time by stage, rows {"stage": "sample", "seconds": 12.3}')
    parser.add_argument("--traces", type=int, default=12, metavar="N", help="traces to show, half wrong, half correct")


def run(args: argparse.Namespace) -> None:
    # scipy takes a second to import: `--help` does not wait for it.
    from openrlhf_negdata.analysis import page, report
    from openrlhf_negdata.files import replacing, write_json
    from openrlhf_negdata.rollouts.store import Run

    if args.traces < 0:
        raise UserError(f"--traces {args.traces}: want 0 or more")
    arms, settings = report.read_evaluation(args.evaluation)
    seconds = report.read_times(args.times) if args.times else {}
    traces: list[report.ShownTrace] = []
    outcomes: Counter[str] = Counter()
    if args.values:
        values = Run.open(args.values)
        traces, outcomes = report.choose_traces(values, args.traces, _decoder(values))
    summary = report.summarize(arms, settings, seconds)

    output = Path(args.output)
    write_json(output / "summary.json", summary)
    with replacing(output / "report.html") as file:
        file.write(page.page(summary, arms[0].task, traces, outcomes))
    print(f"wrote {output / 'summary.json'} and {output / 'report.html'}\n")
    print_summary(summary)


def print_summary(summary: dict[str, Any]) -> None:
    """The figures of summary.json as tables on standard output, plain text of one width where it is not a terminal."""
    from rich.console import Console

    from openrlhf_negdata.analysis.page import duration

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    to_sft = {row["arm"]: row for row in summary["differences"] if row["minus"] == "sft"}
    table = _table(
        "Test error, %, with 95 % intervals over problems", "arm", "by answer", "by whole trace", "less sft"
    )
    for name, arm in summary["arms"].items():
        difference = to_sft.get(name)
        table.add_row(
            _text(name),
            _share(arm["error"], arm["low"], arm["high"]),
            _share(arm["trace_error"], arm["trace_low"], arm["trace_high"]),
            _share(difference["difference"], difference["low"], difference["high"], "+") if difference else "",
        )
    console.print(table)
    for row in summary["differences"]:
        if row["minus"] != "sft":
            share = _share(row["difference"], row["low"], row["high"], "+")
            console.print(
                _text(f"  {row['arm']} less {row['minus']}, the best that learns from right answers: {share}")
            )

    q_by_step = summary["q_by_step"]
    if q_by_step:
        table = _table("Mean Q by steps of the reference solution given", "steps", *q_by_step)
        at = {arm: {row["step"]: row["q"] for row in rows} for arm, rows in q_by_step.items()}
        for step in sorted({step for known in at.values() for step in known}):
            table.add_row(str(step), *(f"{known[step]:.2f}" if step in known else "" for known in at.values()))
        console.print(table)

    if summary["seconds"]:
        table = _table("Time by stage", "stage", "time")
        for stage, seconds in summary["seconds"].items():
            table.add_row(_text(stage), duration(seconds))
        table.add_row("total", duration(sum(summary["seconds"].values())))
        console.print(table)


def _decoder(values: Run) -> Callable[[list[int]], str]:
    """Token ids to text, with the tokenizer that the value run carries."""
    tokenizer = values.tokenizer()
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _table(title: str, first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(_text(first))
    for name in others:
        table.add_column(_text(name), justify="right")
    return table


def _text(words: str) -> Any:
    """Words that rich shall not read as markup."""
    from rich.text import Text

    return Text(words)


def _share(value: float | None, low: float, high: float, sign: str = "") -> Any:
    return "" if value is None else _text(f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]")
