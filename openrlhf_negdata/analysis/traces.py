"""The traces of a value run that are worth showing, cut into steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.records import CORRECT, WRONG, StepValues
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.credit import credit
from openrlhf_negdata.steps.values import Estimator


@dataclass(frozen=True)
class ShownTrace:
    """A trace cut into steps: ``steps`` holds the text of each, ``values`` its rollouts, one entry a step. ``rule`` is
    the one its first pit is found by, one of ``rules.PITS``."""

    title: str
    question: str
    gold: str
    answer: str | None
    outcome: str
    steps: list[str]
    values: StepValues
    rule: str = "lowest_q"

    @property
    def q(self) -> list[float]:
        """Q before the first step, then after each step; NaN where unknown."""
        return Estimator().q(self.values, self.outcome)

    @property
    def advantages(self) -> list[float]:
        """One number a step, in [-1, 1]; NaN where unknown."""
        return credit(self.values, self.outcome)

    @property
    def pit(self) -> int | None:
        """The step that lost a wrong trace, by its rule."""
        return Estimator(self.rule).first_pit(self.values, self.outcome) if self.outcome == WRONG else None


def choose_traces(
    run: Run, count: int, decode: Callable[[list[int]], str], rule: str = "lowest_q"
) -> tuple[list[ShownTrace], Counter[str]]:
    """About ``count`` traces of a value run, half wrong and half correct, and how many with values it has by outcome.

    Either half is one trace a problem, ranked from the deepest drop of Q in one step to the shallowest, and taken at
    even distances along that ranking, so that it shows the typical with the striking. ``decode`` turns token ids into
    text; ``rule`` says which step is the first pit.

    Raises:
        UserError: the run has no step values, or values without their trace.
    """
    traces = {(trace.problem, trace.sample): trace for trace in run.read("traces")}
    values = {(row.problem, row.sample): row for row in run.read("values")}
    if not values:
        raise UserError(f"{run.path} holds no step values: give the folder that `negdata value` made")
    if not values.keys() <= traces.keys():
        raise UserError(f"{run.path}: step values of a trace that is not there: {min(values.keys() - traces.keys())}")

    by_outcome = Counter(str(traces[key].outcome) for key in values)
    drop = {}
    for key, row in values.items():
        if row.step_ends:
            known = [a for a in credit(row, traces[key].outcome) if not math.isnan(a)]
            drop[key] = min(known, default=0.0)
    chosen = []
    for outcome, places in ((WRONG, count - count // 2), (CORRECT, count // 2)):
        ranked = sorted((key for key in drop if traces[key].outcome == outcome), key=lambda key: (drop[key], *key))
        one_a_problem: dict[str, tuple[str, int]] = {}
        for key in ranked:
            one_a_problem.setdefault(key[0], key)
        chosen += _evenly(list(one_a_problem.values()), places)

    problems = {problem.id: problem for problem in run.problems()}
    shown = []
    for key in chosen:
        trace, ends = traces[key], values[key].step_ends
        problem = problems[trace.problem]
        steps = [decode(trace.token_ids[start:end]) for start, end in zip([0, *ends], ends)]  # noqa: B905
        title = f"{trace.problem}, sample {trace.sample}"
        shown.append(
            ShownTrace(title, problem.question, problem.gold, trace.answer, trace.outcome, steps, values[key], rule)
        )
    return shown, by_outcome


def _evenly(ranked: list[Any], places: int) -> list[Any]:
    """``places`` of ``ranked``, the first and the last among them; all of it if there are no more than that."""
    if len(ranked) <= places:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / max(1, places - 1))] for i in range(places)]
