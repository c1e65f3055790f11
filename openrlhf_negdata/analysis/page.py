"""The report as one HTML file: no network, no scripts, readable in light and dark, and not by colour alone.

Traces are what a model wrote and may hold anything, so every text passes through :func:`escape`, and a content
security policy forbids the page to run or load anything even if one did not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

from openrlhf_negdata.analysis import tables
from openrlhf_negdata.analysis.plots import curves_svg, errors_svg, q_svg
from openrlhf_negdata.analysis.tables import escape
from openrlhf_negdata.analysis.traces import ShownTrace
from openrlhf_negdata.records import CORRECT, OUTCOMES
from openrlhf_negdata.steps.estimates import jeffreys
from openrlhf_negdata.steps.rules import PIT_IS

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>negdata report</title>
<style>
{style}</style>
</head>
<body>
"""


def page(
    summary: dict[str, Any],
    task: str,
    traces: Sequence[ShownTrace],
    outcomes: Counter[str],
    curves: dict[str, Any] | None = None,
) -> str:
    """The whole page; ``summary`` is as :func:`.summary.summarize` makes it, ``traces`` and ``outcomes`` as
    :func:`.traces.choose_traces` does, empty where there is no value run; ``curves`` as :func:`.curves.read_curves`
    does.
    """
    arms = summary["arms"]
    problems = next(iter(arms.values()))["problems"]
    made = tables.of_summary(summary)
    parts = [
        _HEAD.replace("{style}", resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")),
        f"<header><h1>Test error on {escape(task)}</h1>\n",
        f'<p class="note">{_number(len(arms), "arm")}, greedy answers to the same {_number(problems, "problem")}. '
        "Intervals are 95 %, over problems.</p></header>\n<main>\n",
        _findings(summary["differences"]),
        _errors(made["errors"], arms),
        _differences(made["differences"]) if "differences" in made else "",
        _q(made["q"], summary["q_by_step"]) if "q" in made else "",
        _at_k(made["at_k"]) if "at_k" in made else "",
        traces_section(traces, outcomes) if outcomes else "",
        _curves(curves) if curves else "",
        _section("Time by stage", tables.as_html(made["times"])) if "times" in made else "",
        _section("What engines made", tables.as_html(made["spent"])) if "spent" in made else "",
        _section("Settings", tables.as_html(made["settings"], "texts")),
        "</main>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def traces_section(traces: Sequence[ShownTrace], outcomes: Counter[str]) -> str:
    """The traces, every step coloured by its advantage, its number in small print and its rollouts on hover."""
    rule = traces[0].rule if traces else "lowest_q"
    counts = ", ".join(f"{outcomes[outcome]:,} {_words(outcome)}" for outcome in OUTCOMES if outcomes[outcome])
    shades = "".join(
        f"<li {_shade(advantage)}>{_signed(advantage)}</li>"
        for advantage in (-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1)
    )
    parts = [
        "<section>\n<h2>Which step lost it</h2>\n"
        "<p>Q is the chance, by Monte Carlo rollouts, that the policy still reaches the right answer. "
        "The advantage of a step is Q after it less Q before it; after the last step Q is the outcome itself.</p>\n"
        f'<div class="legend"><span>lowers Q</span><ol aria-label="colours of advantages">{shades}</ol>'
        f"<span>raises Q</span><span>&#9660; first pit: {PIT_IS[rule]}</span></div>\n"
        f'<p class="note">Of {counts} traces: one a problem, ranked from the deepest drop of Q in one step to the '
        "shallowest, and taken at even distances. Each Q is of few rollouts and the ranking favours noise: point at a "
        "step for its rollouts and interval.</p>\n"
    ]
    for heading, chosen in (
        ("Wrong answers", [trace for trace in traces if trace.outcome != CORRECT]),
        ("Right answers", [trace for trace in traces if trace.outcome == CORRECT]),
    ):
        if chosen:
            parts.append(f"<h3>{heading}</h3>\n" + "".join(map(_trace, chosen)))
    return "".join([*parts, "</section>\n"])


def _trace(trace: ShownTrace) -> str:
    answer = "no answer" if trace.answer is None else f"answer {trace.answer}"
    start = f"Q {trace.q[0]:.2f}" if not math.isnan(trace.q[0]) else "Q ?"
    steps = "".join(_step(trace, i) for i in range(len(trace.steps)))
    return (
        f"<article>\n<header><b>{escape(_words(trace.outcome))}</b><span>{escape(answer)}, gold {escape(trace.gold)}"
        f"</span><span>{escape(trace.title)}</span></header>\n"
        f'<p class="question">{escape(trace.question)}</p>\n'
        f'<ol class="steps">\n<li class="start" title="{_rollouts(trace, 0)}"><span class="text">start</span>'
        f"<small>{start}</small></li>\n{steps}</ol>\n</article>\n"
    )


def _step(trace: ShownTrace, i: int) -> str:
    advantage = trace.advantages[i]
    pit = i == trace.pit
    mark = "&#9660; first pit " if pit else ""
    hover = f"step {i + 1}: advantage {_signed(advantage)}; after it {_rollouts(trace, i + 1)}"
    return (
        f'<li {_shade(advantage, "pit" if pit else "")} title="{hover}">'
        # A delimiter at the end of a step would only draw an empty line.
        f'<span class="text">{escape(trace.steps[i].strip(chr(10))) or "&nbsp;"}</span>'
        f'<small>{mark}<span class="hidden">advantage </span>{_signed(advantage)}</small></li>\n'
    )


def _rollouts(trace: ShownTrace, i: int) -> str:
    """What is known of the value after ``i`` steps, in words."""
    if i == len(trace.steps):
        return f"the answer is {_words(trace.outcome)}"
    correct, count = trace.values.correct[i], trace.values.count[i]
    if not count:
        return "Q unknown, no rollouts"
    q = jeffreys(correct, count)
    return f"Q {q.value:.2f}, {correct} of {count} rollouts right, 95 % interval {q.low:.2f} to {q.high:.2f}"


def _shade(advantage: float, also: str = "") -> str:
    """Class and style of a step: orange for a loss, blue for a gain, deeper for more; none for an unknown one."""
    kind = "" if math.isnan(advantage) or advantage == 0 else "gain" if advantage > 0 else "loss"
    depth = f' style="--depth:{0.7 * min(1.0, abs(advantage)):.2f}"' if kind else ""
    return f'class="{f"{kind} {also}".strip()}"{depth}'


def _findings(differences: Iterable[dict[str, Any]]) -> str:
    """One sentence for each comparison of an arm of step DPO."""
    sentences = []
    for row in differences:
        if not row["arm"].startswith("step_dpo"):
            continue
        if row["low"] <= 0 <= row["high"]:
            verdict = "is not told apart from"
        else:
            verdict = "errs less than" if row["difference"] < 0 else "errs more than"
        sentences.append(
            f"<li><b>{escape(row['arm'])}</b> {verdict} <b>{escape(row['minus'])}</b>: "
            f"{tables.points(row).replace('-', '−')} percentage points of test error.</li>"
        )
    return f'<ul class="findings">{"".join(sentences)}</ul>\n' if sentences else ""


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}</section>\n"


def _errors(table: tables.Table, arms: dict[str, dict[str, Any]]) -> str:
    return _section(
        "Test error",
        f'<figure role="img" aria-label="Test error of each arm with its interval; the table below has the figures">'
        f"{errors_svg(arms)}</figure>\n{tables.as_html(table)}"
        '<p class="note">In percent. By answer: the greedy answer is not correct; truncated and no answer count as '
        "not correct. By whole trace: some step or the answer is not right. Wilson intervals.</p>\n",
    )


def _differences(table: tables.Table) -> str:
    return _section(
        "Differences on the same problems",
        f"{tables.as_html(table)}"
        '<p class="note">Percentage points of test error; below zero the arm errs less. Paired: BCa bootstrap over '
        "problems. An arm of step DPO is also compared with the best of sft, control and rft on these problems, a "
        "choice that favours the other side.</p>\n",
    )


def _q(table: tables.Table, q_by_step: dict[str, list[dict[str, Any]]]) -> str:
    shown = {arm: rows for arm, rows in q_by_step.items() if rows}
    note = (
        " The dashed grey line is sft, before; the solid blue line the arm, after."
        if "sft" in shown and len(shown) > 1
        else ""
    )
    return _section(
        "Q by step",
        "<p>How often rollouts reach the right answer from the first steps of a reference solution; at 0 steps, from "
        f"the bare problem.{note}</p>\n"
        '<figure role="img" aria-label="Mean Q by step for each arm; the table below has the figures">'
        f"{q_svg(shown)}</figure>\n"
        f"<details><summary>The figures</summary>\n{tables.as_html(table)}</details>\n"
        '<p class="note">Mean over problems of the share of rollouts that were right; bands are BCa bootstrap '
        "intervals over problems.</p>\n",
    )


def _at_k(table: tables.Table) -> str:
    return _section(
        "Several answers a problem",
        f"{tables.as_html(table)}"
        '<p class="note">In percent, of sampled answers. pass@1: the share that is right. pass@k: one of k is right. '
        "maj@k: the answer that most of k give is right, ties drawn. BCa bootstrap over problems.</p>\n",
    )


def _curves(curves: dict[str, Any]) -> str:
    held_out = " The orange dots are of held-out rows." if any(lines["held_out"] for lines in curves.values()) else ""
    return _section(
        "Training",
        '<figure role="img" aria-label="Loss by update of each arm; metrics.jsonl of its model has the figures">'
        f"{curves_svg(curves)}</figure>\n"
        f'<p class="note">Loss by update, of metrics.jsonl of each model.{held_out} Every panel has its own scales: '
        "losses of different trainers cannot be compared.</p>\n",
    )


def _signed(advantage: float) -> str:
    if math.isnan(advantage):
        return "?"
    return f"{advantage:+.2f}".replace("-", "−") if round(advantage, 2) else "0"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _words(outcome: str) -> str:
    return outcome.replace("_", " ")
