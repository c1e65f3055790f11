"""What `sample --dry_run` and `value --dry_run` say of time: tokens over the rate at which an earlier run made them."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from openrlhf_negdata.analysis.tables import duration
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.rollouts.store import TABLES, Run


def add_flags(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--dry_run", action="store_true", help=f"check all that the run would, say {what}, and write nothing"
    )
    parser.add_argument(
        "--rate_of",
        metavar="RUN",
        help="with --dry_run: a run of `sample` or `value` whose rate the time is reckoned by (default: what is there "
        "of --output)",
    )


def measured(output: Path, flags: dict) -> tuple[Path, Counter[str]] | None:
    """The run whose rate counts, and its speed (:meth:`Run.speed`); None where none has been measured.

    UserError where ``--rate_of`` names a run that tells no rate.
    """
    for path in filter(None, (flags["rate_of"], output)):
        if path == output and not (output / "manifest.json").is_file():
            return None
        run = Run.open(path, complete=False)
        speed = run.speed(TABLES[run.manifest["command"]][-1])
        if speed["engine_seconds"] and speed["tokens"]:
            return run.path, speed
        if path != output:
            raise UserError(f"--rate_of {path}: it tells no rate: give a run that `negdata sample` or `value` made")
    return None


def time_of(tokens: float, owed: float, found: tuple[Path, Counter[str]] | None, flags: dict, most: str) -> str:
    """How long it takes to generate ``tokens``, of which the share ``owed`` is not there yet, in one line."""
    if found is None:
        return (
            "time: not known, as no rate has been measured: make a small run of `negdata sample` or `value` with this "
            "model on this machine, and name it by --rate_of"
        )
    (run, speed), engines = found, flags["vllm.num_engines"]
    rate = speed["tokens"] / speed["engine_seconds"]
    left = "" if owed == 1 else f" for the {100 * owed:.0f} % that are owed"
    return (
        f"time: {most}about {duration(owed * tokens / rate / engines)}{left}, with {engines} engine(s) of {rate:,.0f} "
        f"tokens a second each, as {run} was made; the start of an engine comes on top"
    )
