"""95 % intervals over problems: BCa bootstrap for a mean and for a paired difference.

A problem is the unit throughout. Several samples or rollouts of one problem are first averaged to one number, because
they are not independent of each other (Miller 2024, "Adding Error Bars to Evals", https://arxiv.org/abs/2411.00640).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from openrlhf_negdata.steps.estimates import LEVEL, Estimate, wilson

RESAMPLES = 9999
SEED = 0


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
