"""metrics.jsonl: what was logged of every update, a row each, in the folder of the trained model.

While a run is under way its rows are in OUT.metrics.jsonl. A run that goes on from a checkpoint takes up the rows up
to there, so that none is missing and none is there twice; they are moved into the model's folder as that appears.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from openrlhf_negdata.errors import UserError

NAME = "metrics.jsonl"


def under_way(output: Path) -> Path:
    """The file of a run whose model will be at ``output``."""
    return output.with_name(f"{output.name}.{NAME}")


def size(path: Path, done: float = math.inf) -> int:
    """The bytes of ``path`` that hold whole rows of the first ``done`` updates; 0 where there is no file.

    UserError where it holds something else: it is someone's own then.
    """
    if not path.exists():
        return 0
    end = 0
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break  # a kill left half a row
            try:
                update = json.loads(line)["update"]
                assert isinstance(update, int)
            except (ValueError, TypeError, KeyError, AssertionError):
                raise UserError(f"{path} is in the way: it holds something other than the rows of a run") from None
            if update > done:
                break
            end += len(line)
    return end


class Metrics:
    """The rows of a run that has made ``done`` updates, and goes on."""

    def __init__(self, path: Path, done: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        end = size(path, done)
        self.file = path.open("a", encoding="utf-8")
        self.file.truncate(end)

    def add(self, update: int, figures: dict[str, Any], last: bool) -> None:
        """Write a row at once. ``last``: a checkpoint or the end follows, which may not be on disk before its row is.
        A figure that is no finite number is null: JSON has no other."""
        numbers = {name: value if isinstance(value, int) else float(value) for name, value in figures.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self.file.write(json.dumps({"update": update} | finite) + "\n")
        self.file.flush()
        if last:
            os.fsync(self.file.fileno())
