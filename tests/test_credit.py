"""Credit: the one way from a valued answer to a number a step and a token."""

import math

import pytest

from openrlhf_negdata.records import StepValues
from openrlhf_negdata.steps.credit import CREDITS, credit, spread
from openrlhf_negdata.steps.values import Estimator


def values(correct, count):
    return StepValues("p", 0, [2, 3, 7], correct, count)


ROW = values([6, 2, 4], [8, 8, 8])


def test_credit_is_the_gain_of_a_step_the_weight_it_gives_or_the_value_after_it():
    assert credit(ROW, "wrong") == [-0.5, 0.25, -0.5]
    assert credit(ROW, "wrong", beta=0.25) == [-2.0, 1.0, -2.0]
    assert credit(ROW, "wrong", beta=0.25, limit=1.5) == [-1.5, 1.0, -1.5]
    assert credit(ROW, "wrong", kind="q") == [0.25, 0.5, 0.0]
    assert credit(ROW, "correct", kind="q") == [0.25, 0.5, 1.0]
    assert credit(ROW, "wrong", kind="exp", beta=0.5) == pytest.approx([math.exp(-1), math.exp(0.5), math.exp(-1)])
    assert credit(ROW, "correct", kind="exp", beta=0.001, limit=20) == pytest.approx([0, 20, 20])


def test_credits_of_an_answer_add_up_to_its_outcome_less_the_first_value():
    for outcome, end in (("correct", 1.0), ("wrong", 0.0), ("no_answer", 0.0), (None, 0.0)):
        assert sum(credit(ROW, outcome)) == pytest.approx(end - 6 / 8)
    best = Estimator(best_of=3)
    assert sum(credit(ROW, "correct", best)) == pytest.approx(1 - best.q(ROW, "correct")[0])


def test_of_a_step_without_rollouts_nothing_is_known():
    row = values([6, 0, 4], [8, 0, 8])
    assert [math.isnan(number) for number in credit(row, "wrong")] == [True, True, False]
    assert [math.isnan(number) for number in credit(row, "wrong", kind="exp", limit=20)] == [True, True, False]


def test_a_token_has_the_credit_of_its_step():
    assert spread([1.0, -2.0, 0.5], [2, 3, 7]).tolist() == [1.0, 1.0, -2.0, 0.5, 0.5, 0.5, 0.5]
    assert spread([], []).tolist() == []


def test_a_kind_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="no such credit: reward"):
        credit(ROW, "wrong", kind="reward")
    assert CREDITS == ("advantage", "exp", "q")
