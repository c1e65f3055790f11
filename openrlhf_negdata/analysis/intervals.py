"""95 % intervals over problems: Wilson and Jeffreys for a share of successes, BCa bootstrap for a mean, never Wald.

A problem is the unit throughout. Several samples or rollouts of one problem are first averaged to one number, because
they are not independent of each other (Miller 2024, "Adding Error Bars to Evals", https://arxiv.org/abs/2411.00640).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9999
SEED = 0


class Estimate(NamedTuple):
    """A point estimate and the two ends of its 95 % interval, in the unit of the data."""

    value: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Estimate:
    """The share ``successes / trials`` with its Wilson score interval (Wilson 1927).

    Raises:
        ValueError: ``trials`` is not positive, or ``successes`` is not between 0 and ``trials``.
    """
    interval = stats.binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def jeffreys(successes: int, trials: int) -> Estimate:
    """The share ``successes / trials`` with its Jeffreys interval: the middle of Beta(c + 1/2, n - c + 1/2).

    The end at a boundary is the boundary itself: no successes give a low end of 0, no failures a high end of 1
    (Brown, Cai and DasGupta 2001, section 4.1.2).

    Raises:
        ValueError: ``trials`` is not positive, or ``successes`` is not between 0 and ``trials``.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials")
    low, high = stats.beta.interval(LEVEL, successes + 0.5, trials - successes + 0.5)
    return Estimate(
        successes / trials, 0.0 if successes == 0 else float(low), 1.0 if successes == trials else float(high)
    )


def mean_interval(values: Sequence[float], bounds: tuple[float, float] = (0.0, 1.0)) -> Estimate:
    """The mean of ``values``, one number a problem, with its BCa bootstrap interval over problems (Efron 1987).

    Equal numbers have nothing to resample, yet n problems do not rule out that others differ. They get the widest
    interval that Wilson's for 0 events in n allows when a problem that differs may lie anywhere in ``bounds``.

    Raises:
        ValueError: there are no values, or one is not within ``bounds``.
    """
    data = np.asarray(values, dtype=float)
    least, most = bounds
    if data.size == 0 or not np.all((least <= data) & (data <= most)):
        raise ValueError(f"want one or more numbers within [{least}, {most}]")
    if data.min() == data.max():
        value, unseen = float(data[0]), wilson(0, data.size).high
        return Estimate(value, value - unseen * (value - least), value + unseen * (most - value))
    interval = stats.bootstrap(
        (data,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // data.size),  # 16 MB at a time
        confidence_level=LEVEL,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Estimate(float(data.mean()), float(interval.low), float(interval.high))


def paired_difference(wrong_a: Sequence[int], wrong_b: Sequence[int]) -> Estimate:
    """Error of a less error of b, in [-1, 1], from one 0/1 a problem each, over the same problems in the same order.

    Raises:
        ValueError: the two are not equally long, or empty.
    """
    if len(wrong_a) != len(wrong_b):
        raise ValueError(f"not the same problems: {len(wrong_a)} and {len(wrong_b)}")
    return mean_interval(np.subtract(wrong_a, wrong_b, dtype=float).tolist(), bounds=(-1.0, 1.0))
