"""What counts of right rollouts say about a chance of success: values and advantages, each with a 95 % interval, and
best-of-K values. Never Wald's interval: after 0 of n it is empty, exactly where least is known.

``correct`` of ``count`` independent rollouts were right throughout.
"""

from __future__ import annotations

from functools import cache
from math import comb
from typing import NamedTuple

import numpy as np
from scipy import special, stats

LEVEL = 0.95
#: Quantiles that stand for a posterior where two of them are compared.
_GRID = (np.arange(512) + 0.5) / 512


class Estimate(NamedTuple):
    """A point estimate and the two ends of its 95 % interval, in the unit of the data."""

    value: float
    low: float
    high: float


def wilson(correct: int, count: int) -> Estimate:
    """The share ``correct / count`` with its Wilson score interval (Wilson 1927).

    Raises:
        ValueError: ``count`` is not positive, or ``correct`` is not between 0 and ``count``.
    """
    interval = stats.binomtest(correct, count).proportion_ci(LEVEL, method="wilson")
    return Estimate(correct / count, float(interval.low), float(interval.high))


def jeffreys(correct: int, count: int) -> Estimate:
    """The share ``correct / count`` with its Jeffreys interval: the middle of Beta(c + 1/2, n - c + 1/2).

    The end at a boundary is the boundary itself: no successes give a low end of 0, no failures a high end of 1
    (Brown, Cai and DasGupta 2001, section 4.1.2).

    Raises:
        ValueError: ``count`` is not positive, or ``correct`` is not between 0 and ``count``.
    """
    _check(correct, count)
    low, high = special.betaincinv(correct + 0.5, count - correct + 0.5, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(correct / count, 0.0 if correct == 0 else float(low), 1.0 if correct == count else float(high))


@cache  # of few distinct counts, asked for every prefix
def best_of(correct: int, count: int, k: int, biased: bool = False) -> float:
    """The chance that the best of ``k`` rollouts is right, the paper's Q with K = ``k`` (Setlur et al. 2024, section
    4).

    The unbiased form, 1 - C(n-c, k) / C(n, k), is the share of right ones among all choices of k of the n rollouts
    made. The biased form, 1 - (1 - c/n)^k, is lower on average but needs fewer than k rollouts.

    Raises:
        ValueError: as for :func:`jeffreys`, or the unbiased form is asked for with fewer than ``k`` rollouts.
    """
    _check(correct, count)
    if not biased and count < k:
        raise ValueError(f"the unbiased best of {k} needs {k} rollouts a prefix, and there are {count}")
    return 1 - (1 - correct / count) ** k if biased else 1 - comb(count - correct, k) / comb(count, k)


def advantage(before: tuple[int, int], after: tuple[int, int]) -> Estimate:
    """Q after a step less Q before it, of two ``(correct, count)``, with Newcombe's interval for the difference of two
    shares (Newcombe 1998, method 10), built on Wilson's.

    Raises:
        ValueError: as for :func:`wilson`.
    """
    p, low_p, high_p = wilson(*after)
    q, low_q, high_q = wilson(*before)
    return Estimate(
        p - q, p - q - float(np.hypot(p - low_p, high_q - q)), p - q + float(np.hypot(high_p - p, q - low_q))
    )


@cache
def chance_below(before: tuple[int, int] | float, after: tuple[int, int] | float, drop: float = 0.0) -> float:
    """The posterior chance that a step lost more than ``drop``: P(A < -drop), from Jeffreys' posterior of each
    ``(correct, count)``. Either is a number where it is known, as an outcome is."""
    q: float | np.ndarray
    if isinstance(before, tuple):
        _check(*before)
        q = special.betaincinv(before[0] + 0.5, before[1] - before[0] + 0.5, _GRID)
    else:
        q = before
    if isinstance(after, tuple):
        _check(*after)
        right, wrong = after[0] + 0.5, after[1] - after[0] + 0.5
        return float(np.mean(special.betainc(right, wrong, np.clip(q - drop, 0, 1))))
    return float(np.mean(after < q - drop))


def _check(correct: int, count: int) -> None:
    if not 0 <= correct <= count or count == 0:
        raise ValueError(f"{correct} successes in {count} trials")
