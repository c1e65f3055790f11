"""Intervals hold what they should hold, and stay finite where the data say little."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from openrlhf_negdata.analysis import intervals
from openrlhf_negdata.analysis.intervals import mean_interval, paired_difference
from openrlhf_negdata.steps.estimates import jeffreys, wilson


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_wilson_is_the_formula_worked_by_hand():
    """c = 3, n = 10: centre (0.3 + z²/20) / (1 + z²/10), half z sqrt(0.3·0.7/10 + z²/400) / (1 + z²/10)."""
    z = stats.norm.ppf(0.975)
    centre = (0.3 + z**2 / 20) / (1 + z**2 / 10)
    half = z * math.sqrt(0.3 * 0.7 / 10 + z**2 / 400) / (1 + z**2 / 10)
    assert wilson(3, 10) == pytest.approx((0.3, centre - half, centre + half))


@pytest.mark.parametrize("interval", [wilson, jeffreys])
@pytest.mark.parametrize(("trials", "rate"), [(50, 0.3), (200, 0.08), (400, 0.5)])
def test_share_intervals_hold_the_true_rate_95_times_in_100(interval, trials, rate):
    draws = np.random.default_rng(1).binomial(trials, rate, size=4000)
    intervals = {successes: interval(int(successes), trials) for successes in set(draws.tolist())}
    held = np.mean([intervals[draw].low <= rate <= intervals[draw].high for draw in draws.tolist()])
    assert 0.93 <= held <= 0.975


@pytest.mark.parametrize("interval", [wilson, jeffreys])
def test_share_intervals_have_width_at_the_boundaries(interval):
    none, every = interval(0, 8), interval(8, 8)
    assert none.low == 0
    assert 0.15 < none.high < 0.5
    assert every.high == 1
    assert every.low == pytest.approx(1 - none.high)


@pytest.mark.parametrize("interval", [wilson, jeffreys])
@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_share_intervals_refuse_impossible_counts(interval, successes, trials):
    with pytest.raises(ValueError, match=r"."):
        interval(successes, trials)


def test_mean_interval_holds_the_true_mean_95_times_in_100(monkeypatch):
    """Means of 4 rollouts of a problem whose own rate is Beta(2, 1): skewed, with the mean 2/3."""
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    rng = np.random.default_rng(2)
    held = []
    for _ in range(400):
        low, high = mean_interval(rng.binomial(4, rng.beta(2, 1, size=60)) / 4)[1:]
        held.append(low <= 2 / 3 <= high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_mean_interval_shrinks_with_problems_not_with_copies_of_one_number():
    few = mean_interval([0.0, 0.5, 1.0, 1.0] * 5)
    many = mean_interval([0.0, 0.5, 1.0, 1.0] * 80)
    assert (many.high - many.low) == pytest.approx((few.high - few.low) / 4, rel=0.15)


@pytest.mark.parametrize("values", [[1.0], [1.0] * 20, [0.0] * 20, [0.3] * 7, [0.0, 1.0], [0.0] * 99 + [1.0]])
def test_mean_interval_of_degenerate_data_is_finite_ordered_and_not_a_point(values):
    value, low, high = mean_interval(values)
    assert 0 <= low <= value <= high <= 1
    assert low < high


def test_mean_interval_of_equal_numbers_at_a_bound_is_wilson():
    assert mean_interval([1.0] * 20) == pytest.approx(wilson(20, 20))


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [0.5, 1.5]])
def test_mean_interval_refuses_what_is_not_a_number_within_bounds(values):
    with pytest.raises(ValueError, match="within"):
        mean_interval(values)


def test_mean_interval_is_the_same_each_time():
    values = np.random.default_rng(3).random(50).tolist()
    assert mean_interval(values) == mean_interval(values)


def test_paired_difference_holds_the_true_difference_95_times_in_100(monkeypatch):
    """b is wrong where a is, but for 10 % mended and 4 % broken: the difference is 0.06."""
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    rng = np.random.default_rng(4)
    held = []
    for _ in range(400):
        kind = rng.choice(4, size=300, p=[0.10, 0.04, 0.20, 0.66])
        low, high = paired_difference(np.isin(kind, [0, 2]).astype(int), np.isin(kind, [1, 2]).astype(int))[1:]
        held.append(low <= 0.06 <= high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_paired_difference_is_narrower_than_unpaired_when_arms_fail_together():
    wrong_a = [1] * 100 + [0] * 100
    wrong_b = [1] * 90 + [0] * 110
    difference = paired_difference(wrong_a, wrong_b)
    assert difference.value == pytest.approx(0.05)
    assert difference.low > 0
    assert paired_difference(wrong_b, wrong_a).value == pytest.approx(-0.05)


def test_paired_difference_of_equal_answers_is_zero_with_room_on_both_sides():
    value, low, high = paired_difference([0, 1, 1, 0] * 50, [0, 1, 1, 0] * 50)
    assert value == 0
    assert high == pytest.approx(wilson(0, 200).high)
    assert low == -high


def test_paired_difference_refuses_other_problems():
    with pytest.raises(ValueError, match="same problems"):
        paired_difference([0, 1], [0, 1, 1])
