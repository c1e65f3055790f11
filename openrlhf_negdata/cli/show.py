"""Say what a folder holds: of a run, what it is, what is done and what is owed, outcomes, and how fast it was made; of
an evaluation, its figures, and the answers of two arms side by side.

    negdata show values
    negdata show evaluation --compare sft:step_dpo       problems that one of the two got right, and what both said
    negdata show values --json                           the same for programs

Works while the command that makes a run is still at it, and after it was killed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from openrlhf_negdata.analysis import answers
from openrlhf_negdata.cli.report import WIDTH, pair_of_arms, print_tables
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.rollouts.store import TABLES, Run
from openrlhf_negdata.tasks import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the folder that `negdata sample`, `grade`, `value` or `evaluate` writes")
    parser.add_argument("--compare", metavar="A:B", help="of an evaluation: greedy answers of two arms, side by side")
    parser.add_argument("--answers", type=int, default=5, metavar="N", help="problems of --compare that are shown")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(args: argparse.Namespace) -> None:
    folder = Path(args.run)
    if args.answers < 0:
        raise UserError(f"--answers {args.answers}: want 0 or more")
    if (folder / "settings.json").is_file() and not (folder / "manifest.json").is_file():
        _show_evaluation(folder, args)
        return
    if args.compare:
        raise UserError(f"--compare {args.compare}: {folder} is not an evaluation")
    run = Run.open(folder, complete=False)
    if args.json:
        _print_json(told_of(run))
    else:
        show(run)


def _print_json(told: dict[str, Any]) -> None:
    json.dump(told, sys.stdout, indent=2, ensure_ascii=False)
    print()


def told_of(run: Run) -> dict[str, Any]:
    """What is known of a run, complete or not, as one JSON object: numbers as they are, times in seconds."""
    owed = len(run.owed())
    speed = run.speed(TABLES[run.manifest["command"]][-1])
    return {
        "command": run.manifest["command"],
        "path": str(run.path),
        "settings": run.manifest["settings"],
        "complete": run.complete and not owed,
        "shards": {"done": run.shards - owed, "owed": owed},
        "problems": len(run.problems()),
        **{
            name: dict(run.outcomes(name))
            for name in ("traces", "rollouts")
            if name in TABLES[run.manifest["command"]]
        },
        "counts": run.manifest.get("counts", {}),
        "speed": dict(speed),
    }


def show(run: Run) -> None:
    """Print the summary of a run, complete or not."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in _lines(run, told_of(run)):
        table.add_row(name, Text(value))
    Console().print(table)


def _lines(run: Run, told: dict[str, Any]) -> Iterable[tuple[str, str]]:
    command, settings = told["command"], told["settings"]
    yield f"negdata {command}", told["path"]
    yield "task", str(settings["task"])
    for name, value in run.sampled.get("prompting", {}).items():
        if value:
            yield f"prompts: {name}", "yes" if value is True else repr(value)
    if (grading := run.grading) != Task.grading:
        yield "grading", grading
    shards, more = told["shards"], f"{told['shards']['owed']:,} owed: run `negdata {command}` again to go on"
    yield "shards", f"{shards['done']:,} done, {'complete' if told['complete'] else more}"
    yield "problems", f"{told['problems']:,}"
    for name in ("traces", "rollouts"):
        outcomes = told.get(name) or {}
        if not outcomes:
            continue
        total = sum(outcomes.values())
        yield "answers" if name == "traces" else name, f"{total:,}"
        for outcome, count in sorted(outcomes.items(), key=lambda one: -one[1]):
            if outcome is not None:
                yield f"  {outcome}", f"{count:,}  {100 * count / total:5.1f} %"
    for name, count in told["counts"].items():
        if name.startswith("dropped_"):
            yield f"dropped: {name.removeprefix('dropped_')}", f"{count:,}"
    yield from _speed_lines(told["speed"])


def _speed_lines(speed: dict[str, float]) -> Iterable[tuple[str, str]]:
    if not speed.get("seconds"):
        return
    yield "time", f"{speed['seconds']:,.0f} s"
    for unit in ("answers", "prefixes", "rollouts", "tokens"):
        if speed.get(unit):
            yield f"{unit} a second", f"{speed[unit] / speed['seconds']:,.0f}"
    if speed.get("prompt_tokens") and "cached_tokens" in speed:
        yield "prefix cache hits", f"{100 * speed['cached_tokens'] / speed['prompt_tokens']:.1f} % of tokens"


def _show_evaluation(folder: Path, args: argparse.Namespace) -> None:
    if args.compare:
        _compare(folder, pair_of_arms(args.compare), args)
        return
    from openrlhf_negdata.analysis import summary, tables  # scipy takes a second to import

    said = summary.summarize(*summary.read_evaluation(folder), {})
    if args.json:
        _print_json(said)
    else:
        print_tables(table for about, table in tables.of_summary(said).items() if about != "settings")


def _compare(folder: Path, arms: tuple[str, str], args: argparse.Namespace) -> None:
    pairs = answers.side_by_side(folder, arms)
    shown = answers.unlike(pairs, args.answers)
    right_by = {
        " and ".join(itertools.compress(arms, right)) or "neither": sum(pair.right == right for pair in pairs)
        for right in ((True, True), (True, False), (False, True), (False, False))
    }
    if args.json:
        _print_json({"right_by": right_by, "problems": [_both(arms, pair) for pair in shown]})
        return
    for who, count in right_by.items():
        print(f"{count:7,} problems: right by {who}")
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for pair in shown:
        console.print(_side_by_side(arms, pair))


def _both(arms: tuple[str, str], pair: answers.Beside) -> dict[str, Any]:
    return vars(pair.problem) | {"answers": dict(zip(arms, map(vars, pair.answers), strict=True))}


def _side_by_side(arms: tuple[str, str], pair: answers.Beside) -> Table:
    """A problem, and what two arms said to it in two columns. As Text, so that rich reads no word of it as markup."""
    problem = pair.problem
    about = f"{problem.id}: {problem.question.strip()}\ngold: {problem.gold}"
    table = Table(title=Text(about), title_justify="left", title_style="", box=box.SIMPLE_HEAD, expand=True)
    for arm, one in zip(arms, pair.answers, strict=True):
        read = "" if one.answer is None else f": {one.answer}"
        table.add_column(Text(f"{arm}, {one.outcome.replace('_', ' ')}{read}"), ratio=1, overflow="fold")
    table.add_row(*(Text(one.text.strip()) for one in pair.answers))
    return table
