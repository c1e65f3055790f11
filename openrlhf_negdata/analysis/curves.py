"""What was logged as the arms of an evaluation were trained: metrics.jsonl of the model's folder, if it is there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from openrlhf_negdata.analysis.summary import Arm
from openrlhf_negdata.files import read_file

#: Points of a curve; of more updates, neighbours are averaged.
POINTS = 200


def read_curves(arms: Iterable[Arm]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """By arm that was trained with our trainers: ``loss`` of its updates and of ``held_out`` rows, each a list of
    (update, loss). UserError where a file is malformed."""
    files = {arm.name: Path(arm.model) / "metrics.jsonl" for arm in arms}
    read = {name: list(read_file(file, _losses)) for name, file in files.items() if file.is_file()}
    return {
        name: {
            "loss": averaged([(update, loss) for update, loss, _ in rows if loss is not None]),
            "held_out": [(update, loss) for update, _, loss in rows if loss is not None],
        }
        for name, rows in read.items()
        if rows
    }


def _losses(row: dict[str, Any], _: int) -> tuple[float, float | None, float | None]:
    losses = row["loss"], row.get("eval/loss")
    if not isinstance(row["update"], int) or not all(loss is None or math.isfinite(loss) for loss in losses):
        raise ValueError(f"update {row['update']!r} with loss {losses[0]!r}, held out {losses[1]!r}")
    return row["update"], *losses


def averaged(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """``points`` as at most ``most``, each the mean of equally many neighbours, but for the last."""
    size = max(1, -(-len(points) // most))
    groups = [points[begin : begin + size] for begin in range(0, len(points), size)]
    return [(sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)) for some in groups]
