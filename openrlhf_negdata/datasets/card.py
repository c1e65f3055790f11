"""The card of a training set: how it was made, what became of all that went in, what its rows are like. Markdown in
the form of the Hugging Face hub."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openrlhf_negdata import __version__
from openrlhf_negdata.datasets.rows import Account, Answered, Row
from openrlhf_negdata.files import replacing
from openrlhf_negdata.steps.credit import credit
from openrlhf_negdata.steps.values import Estimator

#: Edges of the histogram of advantages.
EDGES = np.linspace(-1, 1, 11)


@dataclass
class Figures:
    """What the card says of the rows and of what they were made of, gathered row by row."""

    tokens: dict[str, array] = field(default_factory=dict)
    pits: array = field(default_factory=lambda: array("i"))
    outcomes: Counter[str] = field(default_factory=Counter)
    steps: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES) - 1, dtype=int))
    first: Row | None = None

    def see(self, known: Answered, estimator: Estimator) -> None:
        self.outcomes.update(str(trace.outcome) for trace in known.traces)
        steps = [a for trace, values in known.valued() for a in credit(values, trace.outcome, estimator)]
        if steps:
            self.steps += np.histogram([a for a in steps if not math.isnan(a)], EDGES)[0]

    def add(self, row: Row) -> None:
        for name, ids in row.items():
            if name.endswith("_ids"):
                self.tokens.setdefault(name, array("I")).append(len(ids))
        if "pit" in row:
            self.pits.append(row["pit"])
        if self.first is None:
            self.first = row


def write_card(
    path: Path,
    arm: str,
    command: str,
    settings: dict[str, Any],
    data: dict[str, Any],
    accounts: list[Account],
    notes: list[str],
    figures: Figures,
    written: Sequence[int],
    counts: Sequence[tuple[str, int]],
) -> None:
    """Write ``FILE.card.md`` beside a training set of the ``written`` rows. ``counts``: how many were made, and where
    they are."""
    lines = [*_front_matter(path, len(written)), f"# {path.name}", ""]
    lines += [f"{len(written)} rows, arm `{arm}`, made by openrlhf_negdata {__version__}:", "", f"    {command}", ""]
    lines += [f"- {key}: `{value}`" for key, value in settings.items()]
    lines += ["", "Made of:", "", "```json", json.dumps(data, indent=1), "```"]
    for account in accounts:
        dropped = [(f"dropped: {reason}", count) for reason, count in sorted(account.dropped.items())]
        lines += _table((account.unit, "count"), [("in", account.total), ("kept", account.kept), *dropped])
    lines += _table(("rows", "count"), counts)
    lines += ["", _FOR_TEXT] if "rejected_ids" in (figures.first or {}) else []
    lines += [line for note in notes for line in ("", note)]
    if figures.outcomes:
        lines += _table(("answers that went in", "count"), sorted(figures.outcomes.items()))
    chosen = np.array(written, dtype=int)
    lengths = []
    for name, counted in figures.tokens.items():
        of = np.asarray(counted)[chosen]
        lengths.append((name, f"{of.mean():.1f}", int(np.median(of)), int(np.quantile(of, 0.95)), of.max()))
    if lengths:
        lines += _table(("tokens a row", "mean", "median", "95 %", "most"), lengths)
    if figures.pits:
        at = Counter(np.asarray(figures.pits)[chosen].tolist())
        lines += _table(("step that is blamed", "rows"), [(step + 1, at[step]) for step in sorted(at)])
    if figures.steps.any():
        ranges = [f"{low:+.1f} to {high:+.1f}" for low, high in zip(EDGES, EDGES[1:], strict=False)]
        lines += _table(("advantage of a step", "steps that went in"), list(zip(ranges, figures.steps, strict=True)))
    lines += ["", "The first row that was made:", "", "```"]
    lines += [f"{key}: {value}" for key, value in (figures.first or {}).items() if not key.endswith("_ids")]
    lines += ["```"]
    with replacing(path.with_name(f"{path.name}.card.md")) as card:
        card.write("\n".join(lines) + "\n")


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["", *(f"| {' | '.join(map(str, row))} |" for row in cells)]


def _front_matter(path: Path, rows: int) -> list[str]:
    """What the hub reads of a card."""
    from huggingface_hub import DatasetCardData

    size = next((name for limit, name in _SIZES if rows < limit), "n>1M")
    data = DatasetCardData(tags=["openrlhf", "openrlhf_negdata"], size_categories=[size], pretty_name=path.name)
    return ["---", data.to_yaml(), "---", ""]


#: What a trainer that takes text would make of pairs.
_FOR_TEXT = (
    "Train on the ids (`..._ids`), by `openrlhf_negdata.cli.train_step_dpo`, or by TRL's or OpenRLHF's DPO as in "
    "`examples/`. The text is for reading: a trainer that takes it tokenizes each side again, and puts an "
    "end-of-sequence token after it, also where it is a step in mid-answer, which so is taught to end answers."
)
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
