"""The report as one HTML file: no network, no scripts, readable in light and dark, and not by colour alone.

Traces are what a model wrote and may hold anything, so every text passes through :func:`escape`, and a content
security policy forbids the page to run or load anything even if one did not.
"""

from __future__ import annotations

import html
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from openrlhf_negdata.analysis.plots import errors_svg, q_svg
from openrlhf_negdata.analysis.report import ShownTrace
from openrlhf_negdata.steps.estimates import jeffreys
from openrlhf_negdata.tasks import CORRECT, OUTCOMES

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>negdata report</title>
<style>
:root {
  --ground: #fff; --ink: #1d2129; --faint: #5c6573; --line: #d9dde3; --card: #f6f7f9;
  --gain: 0 114 178; --loss: 213 94 0; --gain-line: #0072b2; --loss-line: #b84e00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171c; --ink: #e9ebee; --faint: #a3adba; --line: #353b45; --card: #1c2027;
    --gain: 40 140 215; --loss: 222 100 10; --gain-line: #5cb3ee; --loss-line: #f0924a;
  }
}
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.note { color: var(--faint); font-size: .9rem; }
ul.findings { padding-left: 1.2rem; max-width: 46rem; font-size: 1.05rem; }
figure { margin: 1rem 0; overflow-x: auto; }
svg { display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .75rem 0; }
caption { text-align: left; color: var(--faint); padding-bottom: .25rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
thead th { color: var(--faint); font-weight: 500; vertical-align: bottom; }
th:first-child, .texts td { text-align: left; }
.texts td { white-space: normal; overflow-wrap: anywhere; }
td small { color: var(--faint); font-size: .85em; }
details summary { cursor: pointer; color: var(--faint); font-size: .9rem; }
.legend { display: flex; align-items: center; gap: .6rem; flex-wrap: wrap; font-size: .85rem; margin: .75rem 0; }
.legend ol { display: flex; flex-wrap: wrap; list-style: none; margin: 0; padding: 0; }
.legend li { padding: .2rem .55rem; font-variant-numeric: tabular-nums; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem;
  margin: .9rem 0; }
article header { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem; color: var(--faint); }
article header b { color: var(--ink); }
.question, .text { font: .92rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; unicode-bidi: isolate; }
.question { margin: .35rem 0 .6rem; max-width: none; }
.steps { display: flex; flex-wrap: wrap; gap: .35rem; list-style: none; margin: 0; padding: 0; }
.steps li { display: flex; flex-direction: column; justify-content: space-between; min-width: 3.2rem;
  border: 1px solid var(--line); border-radius: .4rem; padding: .3rem .5rem .2rem; }
.steps small { font-size: .75rem; font-variant-numeric: tabular-nums; opacity: .92; }
.steps .start { border-style: dashed; }
.steps .pit { outline: 2px solid var(--ink); outline-offset: 1px; }
.steps .pit small { font-weight: 700; }
.gain { background: rgb(var(--gain) / var(--depth)); }
.loss { background: rgb(var(--loss) / var(--depth)); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
</style>
</head>
<body>
"""


def escape(text: Any) -> str:
    """``text`` as it can stand in HTML content or in a quoted attribute, whatever it holds."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"), quote=True)


def page(summary: dict[str, Any], task: str, traces: Sequence[ShownTrace], outcomes: Counter[str]) -> str:
    """The whole page; ``summary`` is as :func:`.report.summarize` makes it, ``traces`` and ``outcomes`` as
    :func:`.report.choose_traces` does, empty where there is no value run.
    """
    arms = summary["arms"]
    problems = next(iter(arms.values()))["problems"]
    parts = [
        _HEAD,
        f"<header><h1>Test error on {escape(task)}</h1>\n",
        f'<p class="note">{_number(len(arms), "arm")}, greedy answers to the same {_number(problems, "problem")}. '
        "Intervals are 95 %, over problems.</p></header>\n<main>\n",
        _findings(summary["differences"]),
        _errors(arms),
        _differences(summary["differences"]),
        _q(summary["q_by_step"]),
        traces_section(traces, outcomes) if outcomes else "",
        _times(summary["seconds"]),
        _settings(summary["settings"], arms),
        "</main>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def traces_section(traces: Sequence[ShownTrace], outcomes: Counter[str]) -> str:
    """The traces, every step coloured by its advantage, its number in small print and its rollouts on hover."""
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
        "<span>raises Q</span><span>&#9660; first pit: the first step with the lowest Q after it</span></div>\n"
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
            f"<li><b>{escape(row['arm'])}</b> {verdict} <b>{escape(row['minus'])}</b>: {_points(row)} "
            "percentage points of test error.</li>"
        )
    return f'<ul class="findings">{"".join(sentences)}</ul>\n' if sentences else ""


def _errors(arms: dict[str, dict[str, Any]]) -> str:
    head = ["arm", "error by answer, %", "error by whole trace, %", *map(_words, OUTCOMES)]
    rows = [
        [
            escape(name),
            _percent(arm["error"], arm["low"], arm["high"]),
            _percent(arm["trace_error"], arm["trace_low"], arm["trace_high"]),
            *(f"{arm['outcomes'][outcome]:,}" for outcome in OUTCOMES),
        ]
        for name, arm in arms.items()
    ]
    return (
        "<section>\n<h2>Test error</h2>\n"
        f'<figure role="img" aria-label="Test error of each arm with its interval; the table below has the figures">'
        f"{errors_svg(arms)}</figure>\n{_table(head, rows)}"
        '<p class="note">By answer: the greedy answer is not correct; truncated and no answer count as not correct. '
        "By whole trace: some step or the answer is not right. Wilson intervals.</p>\n</section>\n"
    )


def _differences(differences: Sequence[dict[str, Any]]) -> str:
    if not differences:
        return ""
    rows = [[escape(row["arm"]), escape(row["minus"]), _points(row)] for row in differences]
    return (
        "<section>\n<h2>Differences on the same problems</h2>\n"
        f"{_table(['arm', 'minus', 'difference of error, percentage points'], rows)}"
        '<p class="note">Below zero the arm errs less. Paired: BCa bootstrap over problems. An arm of '
        "step DPO is also compared with the best of sft, control and rft on these problems, a choice that favours the "
        "other side.</p>\n"
        "</section>\n"
    )


def _q(q_by_step: dict[str, list[dict[str, Any]]]) -> str:
    shown = {arm: rows for arm, rows in q_by_step.items() if rows}
    if not shown:
        return ""
    steps = sorted({row["step"] for rows in shown.values() for row in rows})
    at = {arm: {row["step"]: row for row in rows} for arm, rows in shown.items()}
    body = [[str(step), *(_mean(at[arm][step]) if step in at[arm] else "" for arm in shown)] for step in steps]
    note = (
        " The dashed grey line is sft, before; the solid blue line the arm, after."
        if "sft" in shown and len(shown) > 1
        else ""
    )
    return (
        "<section>\n<h2>Q by step</h2>\n"
        "<p>How often rollouts reach the right answer from the first steps of a reference solution; at 0 steps, from "
        f"the bare problem.{note}</p>\n"
        '<figure role="img" aria-label="Mean Q by step for each arm; the table below has the figures">'
        f"{q_svg(shown)}</figure>\n"
        f"<details><summary>The figures</summary>\n{_table(['steps given', *map(escape, shown)], body)}</details>\n"
        '<p class="note">Mean over problems of the share of rollouts that were right; bands are BCa bootstrap '
        "intervals over problems.</p>\n</section>\n"
    )


def _times(seconds: dict[str, float]) -> str:
    if not seconds:
        return ""
    rows = [[escape(stage), duration(value)] for stage, value in [*seconds.items(), ("total", sum(seconds.values()))]]
    return f"<section>\n<h2>Time by stage</h2>\n{_table(['stage', 'time'], rows)}</section>\n"


def _settings(settings: dict[str, Any], arms: dict[str, dict[str, Any]]) -> str:
    rows = [
        [escape(name), escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
        for name, value in settings.items()
    ]
    rows += [[f"model of {escape(name)}", escape(arm["model"])] for name, arm in arms.items()]
    return f"<section>\n<h2>Settings</h2>\n{_table(['setting', 'value'], rows, 'texts')}</section>\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already; the first cell of a row is its header."""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}">\n<thead><tr>{columns}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>\n"
    )


def _percent(value: float | None, low: float, high: float) -> str:
    return "" if value is None else f"{100 * value:.1f} <small>[{100 * low:.1f}, {100 * high:.1f}]</small>"


def _mean(row: dict[str, Any]) -> str:
    return f"{row['q']:.2f} <small>[{row['low']:.2f}, {row['high']:.2f}]</small>"


def _points(row: dict[str, Any]) -> str:
    value, low, high = (f"{100 * row[end]:+.1f}".replace("-", "−") for end in ("difference", "low", "high"))
    return f"{value} <small>[{low}, {high}]</small>"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``8.2 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _signed(advantage: float) -> str:
    if math.isnan(advantage):
        return "?"
    return f"{advantage:+.2f}".replace("-", "−") if round(advantage, 2) else "0"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _words(outcome: str) -> str:
    return outcome.replace("_", " ")
