"""Say what a run folder holds: what it is, what is done and what is owed, outcomes, and how fast it was made.

    negdata show values

Works while the command that makes the run is still at it, and after it was killed.
"""

from __future__ import annotations

import argparse

from rich import box
from rich.console import Console
from rich.table import Table

from openrlhf_negdata.rollouts.store import TABLES, Run
from openrlhf_negdata.tasks import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the folder that `negdata sample`, `grade` or `value` writes")


def run(args: argparse.Namespace) -> None:
    show(Run.open(args.run, complete=False))


def show(run: Run) -> None:
    """Print the summary of a run, complete or not."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    command, settings = run.manifest["command"], run.manifest["settings"]
    table.add_row(f"negdata {command}", str(run.path))
    table.add_row("task", str(settings["task"]))
    for name, value in run.sampled.get("prompting", {}).items():
        if value:
            table.add_row(f"prompts: {name}", "yes" if value is True else repr(value))
    if (grading := run.grading) != Task.grading:
        table.add_row("grading", grading)
    shards, owed = run.shards, len(run.owed())
    state = "complete" if run.complete and not owed else f"{owed:,} owed: run `negdata {command}` again to go on"
    table.add_row("shards", f"{shards - owed:,} done, {state}")
    table.add_row("problems", f"{sum(1 for _ in run.problems()):,}")
    for name in ("traces", "rollouts"):
        outcomes = run.outcomes(name)
        if not outcomes:
            continue
        table.add_row("answers" if name == "traces" else name, f"{outcomes.total():,}")
        for outcome, count in outcomes.most_common():
            if outcome is not None:
                table.add_row(f"  {outcome}", f"{count:,}  {100 * count / outcomes.total():5.1f} %")
    for name, count in run.manifest.get("counts", {}).items():
        if name.startswith("dropped_"):
            table.add_row(f"dropped: {name.removeprefix('dropped_')}", f"{count:,}")
    speed = run.speed(TABLES[command][-1])
    if speed["seconds"]:
        table.add_row("time", f"{speed['seconds']:,.0f} s")
        for unit in ("prefixes", "rollouts", "tokens"):
            if speed[unit]:
                table.add_row(f"{unit} a second", f"{speed[unit] / speed['seconds']:,.0f}")
        if speed["prompt_tokens"]:
            table.add_row(
                "prefix cache hits", f"{100 * speed['cached_tokens'] / speed['prompt_tokens']:.1f} % of tokens"
            )
    Console().print(table)
