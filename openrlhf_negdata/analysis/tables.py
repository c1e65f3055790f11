"""The tables of a report, made once, and three writers of them: terminal, Markdown, HTML.

A cell is the text that a person reads: a figure, perhaps with its interval in brackets, such as ``37.6 [36.2, 39.2]``.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openrlhf_negdata.records import OUTCOMES

if TYPE_CHECKING:
    from rich.table import Table as RichTable

#: What stands in brackets after a figure, and a minus before a digit that no word ends with.
_INTERVAL, _MINUS = re.compile(r" (\[[^][]*\])$"), re.compile(r"(?<![\w.])-(?=\d)")


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; the first cell of a row says what it is of."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def of_summary(summary: dict[str, Any]) -> dict[str, Table]:
    """The tables of an evaluation, in the order they are read, by what they are about; only those that have rows.
    ``summary`` is what :func:`.summary.summarize` makes."""
    made = {
        "errors": errors(summary["arms"]),
        "differences": differences(summary["differences"]),
        "q": q_by_step(summary["q_by_step"]),
        "at_k": at_k(summary["at_k"]),
        "times": times(summary["seconds"]),
        "spent": spent(summary["spent"]),
        "settings": settings(summary["settings"], summary["arms"]),
    }
    return {about: table for about, table in made.items() if table.rows}


def errors(arms: dict[str, dict[str, Any]]) -> Table:
    """The test error of each arm, and how many answers had which outcome."""
    seen = [outcome for outcome in OUTCOMES if any(arm["outcomes"][outcome] for arm in arms.values())]
    rows = [
        [
            name,
            percent(arm["error"], arm["low"], arm["high"]),
            percent(arm["trace_error"], arm["trace_low"], arm["trace_high"]),
            *(f"{arm['outcomes'][outcome]:,}" for outcome in seen),
        ]
        for name, arm in arms.items()
    ]
    head = ["arm", "by answer", "by whole trace", *(outcome.replace("_", " ") for outcome in seen)]
    return Table("Test error, %, with 95 % intervals over problems", head, rows)


def differences(compared: Iterable[dict[str, Any]]) -> Table:
    """Of two arms each, how much more the first errs."""
    rows = [[row["arm"], row["minus"], points(row)] for row in compared]
    return Table(
        "Difference of test error on the same problems, percentage points", ["arm", "less", "by answer"], rows
    )


def q_by_step(arms: dict[str, list[dict[str, Any]]]) -> Table:
    """Mean Q of each arm, by how many steps of a reference solution it is given."""
    steps = sorted({row["step"] for rows in arms.values() for row in rows})
    at = {arm: {row["step"]: share(row["q"], row["low"], row["high"]) for row in rows} for arm, rows in arms.items()}
    rows = [[str(step), *(known.get(step, "") for known in at.values())] for step in steps]
    return Table("Mean Q by steps of the reference solution given", ["steps given", *arms], rows)


def at_k(arms: dict[str, list[dict[str, Any]]]) -> Table:
    """pass@k and maj@k of each arm that was sampled."""
    ks = sorted({row["k"] for rows in arms.values() for row in rows})
    columns = [(name, k) for name in ("pass", "majority") for k in ks if name == "pass" or k > 2]
    rows = []
    for arm, known in arms.items():
        at = {row["k"]: row for row in known}
        cells = [
            [at[k][f"{name}{end}"] for end in ("", "_low", "_high")] if k in at else [None] * 3 for name, k in columns
        ]
        rows.append([arm, *(percent(*cell) for cell in cells)])
    head = ["arm", *(f"{'pass' if name == 'pass' else 'maj'}@{k}" for name, k in columns)]
    return Table("Sampled answers, %, with 95 % intervals over problems", head, rows)


def times(seconds: dict[str, float]) -> Table:
    """How long each stage took."""
    total = {"total": sum(seconds.values())} if seconds else {}
    return Table(
        "Time by stage", ["stage", "time"], [[name, duration(took)] for name, took in (seconds | total).items()]
    )


def spent(stages: dict[str, dict[str, float]]) -> Table:
    """What engines made in each stage."""
    counted = ("answers", "rollouts", "tokens")
    rows = [
        [stage, *(f"{took[name]:,.0f}" if took[name] else "" for name in counted), duration(took["seconds"])]
        for stage, took in stages.items()
    ]
    return Table("What engines made, by stage", ["stage", *counted, "time"], rows)


def settings(chosen: dict[str, Any], arms: dict[str, dict[str, Any]]) -> Table:
    """What the evaluation was made with."""
    rows = [
        [name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
        for name, value in chosen.items()
    ]
    return Table(
        "Settings", ["setting", "value"], [*rows, *([f"model of {name}", arm["model"]] for name, arm in arms.items())]
    )


def percent(value: float | None, low: float, high: float, sign: str = "") -> str:
    """A share and its interval, in percent; nothing where it is not known."""
    return "" if value is None else f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def points(row: dict[str, Any]) -> str:
    """A difference of shares and its interval, in percentage points with their sign."""
    return percent(row["difference"], row["low"], row["high"], "+")


def share(value: float, low: float, high: float) -> str:
    """A share in [0, 1] and its interval."""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``8.2 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def escape(text: Any) -> str:
    """``text`` as it can stand in HTML content or in a quoted attribute, whatever it holds."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"), quote=True)


def as_html(table: Table, kind: str = "") -> str:
    """The table without its title, for a page that has its own headings; ``kind`` is its class."""
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{_figure(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in table.rows
    )
    return (
        f'<div class="scroll"><table class="{kind}">\n<thead><tr>{columns}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>\n"
    )


def _figure(cell: str) -> str:
    """A cell in HTML: the interval in small print."""
    figure, *interval = _INTERVAL.split(_MINUS.sub("−", cell))
    return escape(figure) + (f" <small>{escape(interval[0])}</small>" if interval else "")


def as_markdown(table: Table) -> list[str]:
    """The lines of the table without its title."""
    head, *rows = (
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in (table.head, *table.rows)
    )
    return [head, "|---" * len(table.head) + "|", *rows]


def for_terminal(table: Table, width: int) -> RichTable:
    """The table for rich's console; without its intervals where they do not fit into ``width`` columns."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    widest = (max(len(row[column]) for row in (table.head, *table.rows)) for column in range(len(table.head)))
    narrow = sum(widest) + 3 * len(table.head) > width
    title = table.title + (" (intervals: see the page)" if narrow else "")
    made = RichTable(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for number, name in enumerate(table.head):
        made.add_column(Text(name), justify="right" if number else "left")
    for row in table.rows:
        # As Text, so that rich reads no word of it as markup.
        made.add_row(*(Text(_INTERVAL.sub("", cell) if narrow else cell) for cell in row))
    return made
