"""From rollout counts to values, advantages and the first pit (Setlur et al. 2024, section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from openrlhf_negdata.rollouts.store import StepValues
from openrlhf_negdata.tasks import CORRECT


def step_q(values: StepValues, outcome: str) -> list[float]:
    """Q before the first step, then after each step: ``len(values.step_ends) + 1`` numbers in [0, 1], NaN where
    unknown.

    The value after the last step is the outcome itself: a terminal step is not rolled out.
    """
    before = [c / n if n else math.nan for c, n in zip(values.correct, values.count, strict=True)]
    return [*before, 1.0 if outcome == CORRECT else 0.0]


def advantages(q: Sequence[float]) -> list[float]:
    """A_i = Q(prefix through step i) - Q(prefix through step i-1), equation 3; one number a step."""
    return [after - before for before, after in zip(q, q[1:])]  # noqa: B905 - the lengths differ by one


def first_pit(q: Sequence[float], definition: str = "lowest_q") -> int:
    """The step that lost the answer. ``q`` is as :func:`step_q` gives it; NaN is passed over.

    ``lowest_q``: the first step with the lowest Q after it (Algorithm 1). After the last step of a wrong answer Q is
    0, so that is the pit unless an earlier estimate is exactly 0. ``lowest_advantage``: the first step with the least
    advantage (the same authors' restatement).
    """
    scores = q[1:] if definition == "lowest_q" else advantages(q)
    known = [math.inf if math.isnan(score) else score for score in scores]
    return known.index(min(known))
