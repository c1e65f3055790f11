"""The plots of the report as SVG text that takes its colours and font from the page it is put in.

matplotlib is imported when a plot is drawn, so that ``negdata report --help`` does not wait for it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that no other part of an SVG contains, each swapped for a CSS variable of the page, which is light or dark.
_INK, _FAINT, _LINE, _ANSWER, _TRACE = "#a1b2c1", "#a1b2c2", "#a1b2c3", "#a1b2c4", "#a1b2c5"
_VARIABLES = {_INK: "ink", _FAINT: "faint", _LINE: "line", _ANSWER: "gain-line", _TRACE: "loss-line"}


def errors_svg(arms: dict[str, dict[str, Any]]) -> str:
    """Test error of each arm with its 95 % interval, by answer and by whole trace; ``arms`` is of summary.json."""

    def draw() -> Figure:
        figure, axes = _figure(1, 1, width=8.4, height=0.9 + 0.36 * len(arms))
        whole = any(arm["trace_error"] is not None for arm in arms.values())
        series = [("error", "low", "high", "by answer", _ANSWER, "o", -0.14 if whole else 0.0)]
        if whole:
            series.append(("trace_error", "trace_low", "trace_high", "by whole trace", _TRACE, "D", 0.14))
        for mean, low, high, label, colour, marker, shift in series:
            rows = [(i + shift, arm) for i, arm in enumerate(arms.values()) if arm[mean] is not None]
            axes[0].errorbar(
                [100 * arm[mean] for _, arm in rows],
                [y for y, _ in rows],
                xerr=[
                    [100 * max(0.0, arm[mean] - arm[low]) for _, arm in rows],
                    [100 * max(0.0, arm[high] - arm[mean]) for _, arm in rows],
                ],
                fmt=marker, color=colour, label=label, markersize=5, elinewidth=2, capsize=3,
            )  # fmt: skip
        if "sft" in arms:
            axes[0].axvline(100 * arms["sft"]["error"], color=_ANSWER, linewidth=1, linestyle=":")
        axes[0].set_yticks(range(len(arms)), list(arms))
        axes[0].set_ylim(len(arms) - 0.5, -0.5)
        axes[0].set_xlim(left=0)
        axes[0].set_xlabel("test error, %, with 95 % interval" + ("; dotted: sft by answer" if "sft" in arms else ""))
        axes[0].grid(axis="x", color=_LINE, linewidth=0.8)
        if whole:
            axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, labelcolor=_INK)
        return figure

    return _svg(draw)


def q_svg(q_by_step: dict[str, list[dict[str, Any]]]) -> str:
    """Mean Q before each step, one panel an arm with sft behind it; ``q_by_step`` is of summary.json, not empty."""

    def draw() -> Figure:
        from matplotlib.ticker import MaxNLocator

        before = q_by_step.get("sft")
        after = [arm for arm in q_by_step if arm != "sft"] or ["sft"]
        columns = min(4, len(after))
        rows = -(-len(after) // columns)
        figure, axes = _figure(rows, columns, width=max(3.6, 2.15 * columns), height=0.5 + 1.9 * rows)
        for panel, arm in zip(axes, after, strict=False):
            if before is not None and arm != "sft":
                _q_line(panel, before, _FAINT, "s", "--")
            _q_line(panel, q_by_step[arm], _ANSWER, "o", "-")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        _label(figure, axes, after, "steps of the reference solution given", "mean Q")
        return figure

    return _svg(draw)


def curves_svg(curves: dict[str, dict[str, list[tuple[float, float]]]]) -> str:
    """Loss by update, a panel an arm, each with its own scales: losses of different trainers cannot be compared.
    ``curves`` is of :func:`.curves.read_curves`, not empty."""

    def draw() -> Figure:
        columns = min(4, len(curves))
        rows = -(-len(curves) // columns)
        figure, axes = _figure(rows, columns, max(3.6, 2.15 * columns), 0.5 + 1.7 * rows, share=False)
        for panel, lines in zip(axes, curves.values(), strict=False):
            panel.plot(*zip(*lines["loss"], strict=True), color=_ANSWER, linewidth=1.2)
            if lines["held_out"]:
                panel.plot(*zip(*lines["held_out"], strict=True), color=_TRACE, marker="o", markersize=4)
        _label(figure, axes, curves, "update", "loss")
        return figure

    return _svg(draw)


def _q_line(axes: Axes, rows: list[dict[str, Any]], colour: str, marker: str, style: str) -> None:
    steps = [row["step"] for row in rows]
    axes.fill_between(
        steps, [row["low"] for row in rows], [row["high"] for row in rows], color=colour, alpha=0.25, linewidth=0
    )
    axes.plot(steps, [row["q"] for row in rows], color=colour, marker=marker, linestyle=style, markersize=4)


def _label(figure: Figure, axes: list[Axes], arms: Collection[str], x: str, y: str) -> None:
    """Title the panels with ``arms``, remove those that are left over, and name the two axes once for all."""
    for panel, arm in zip(axes, arms, strict=False):
        panel.set_title(arm, fontsize=10, color=_INK)
        panel.grid(color=_LINE, linewidth=0.8)
    for panel in axes[len(arms) :]:
        panel.remove()
    figure.supxlabel(x, fontsize=10, color=_INK)
    figure.supylabel(y, fontsize=10, color=_INK)


def _figure(rows: int, columns: int, width: float, height: float, share: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` by ``height`` inches and its axes in reading order, all with the same scales if they
    ``share`` them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    axes = list(figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False).flat)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(_LINE)
        panel.tick_params(colors=_INK, labelsize=9, length=0)
        panel.xaxis.label.set_color(_INK)
        panel.set_axisbelow(True)
    return figure, axes


def _svg(draw: Callable[[], Figure]) -> str:
    """The figure that ``draw`` makes, as an ``<svg>`` element, the same text for the same figures."""
    import matplotlib

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "negdata", "text.parse_math": False, "font.size": 10}
    with matplotlib.rc_context(settings):
        text = io.StringIO()
        draw().savefig(
            text,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r'<svg [^>]*?width="([\d.]+)pt" height="[\d.]+pt"', r'<svg aria-hidden="true" style="width:\1pt"', svg
    )
    svg = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
