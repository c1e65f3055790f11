"""Credit: from a valued answer to a number a step, and from steps to tokens. What learns from step values or shows
them, in sets, reports or online, asks here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from openrlhf_negdata.records import StepValues
from openrlhf_negdata.steps.values import Estimator, advantages

CREDITS = ("advantage", "exp", "q")


def credit(
    values: StepValues,
    outcome: str | None,
    estimator: Estimator = Estimator(),  # noqa: B008 - it is frozen
    kind: str = "advantage",
    beta: float = 1.0,
    limit: float = math.inf,
) -> list[float]:
    """What each step of an answer of ``outcome`` has earned, one number a step, NaN where no rollouts tell.

    - ``advantage``: ``A / beta``, A = Q after the step less Q before it (Setlur et al. 2024, equation 3), cut to the
      range of ``-limit`` to ``limit``: what a policy gradient weighs the step by.
    - ``exp``: ``exp(A / beta)``, at most ``limit``: what advantage-weighted regression does (equation 4).
    - ``q``: Q after the step.

    Raises:
        ValueError: there is no such ``kind``.
    """
    q = estimator.q(values, str(outcome))
    if kind == "q":
        return q[1:]
    scaled = np.array(advantages(q)) / beta
    if kind == "advantage":
        return np.clip(scaled, -limit, limit).tolist()
    if kind == "exp":
        return np.exp(np.minimum(scaled, math.log(limit))).tolist()
    raise ValueError(f"no such credit: {kind} (there are {', '.join(CREDITS)})")


def spread(numbers: Sequence[float], step_ends: Sequence[int]) -> np.ndarray:
    """One number a token, that of its step: from one number a step to the shape (``step_ends[-1]``,)."""
    return np.repeat(np.asarray(numbers, dtype=float), np.diff(np.asarray(step_ends, dtype=int), prepend=0))
