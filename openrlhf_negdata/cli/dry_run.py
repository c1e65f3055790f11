"""What --dry_run of `sample` and `value` says of time: tokens over the rate at which an earlier run made them."""

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


def timed(speed: Counter[str], seconds: float, num_engines: int) -> dict[str, float]:
    """What a shard is written with: ``speed`` and the time it took. Times of engines add up over runs with other
    numbers of them."""
    return {"seconds": round(seconds, 3), "engine_seconds": round(num_engines * seconds, 3), **speed}


def owed(there: Run | None) -> float:
    """The share of a run's shards that are not there yet."""
    return len(there.owed()) / there.shards if there and there.shards else 1.0


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


def time_of(tokens: float, share: float, found: tuple[Path, Counter[str]] | None, flags: dict, most: str) -> str:
    """How long it takes to generate the ``share`` that is owed of ``tokens``, in one line."""
    if found is None:
        return (
            "time: not known, as no rate has been measured: make a small run of `negdata sample` or `value` with this "
            "model on this machine, and name it by --rate_of"
        )
    (run, speed), engines = found, flags["vllm.num_engines"]
    rate = speed["tokens"] / speed["engine_seconds"]
    left = "" if share == 1 else f" for the {100 * share:.0f} % that are owed"
    return (
        f"time: {most}about {duration(share * tokens / rate / engines)}{left}, with {engines} engine(s) of "
        f"{rate:,.0f} tokens a second each, as {run} was made; the start of an engine comes on top"
    )
