"""Values, advantages and first pits on examples worked by hand; which answers are valued."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_negdata.cli.value import choose
from openrlhf_negdata.records import CORRECT, OUTCOMES, StepValues, Trace
from openrlhf_negdata.steps.rules import PITS
from openrlhf_negdata.steps.values import Estimator, advantages


def values(correct, count) -> StepValues:
    return StepValues("p", 0, list(range(1, len(count) + 1)), correct, count)


def test_q_is_the_share_of_right_rollouts_and_the_outcome_at_the_end():
    assert Estimator().q(values([6, 2, 0], [8, 8, 8]), "wrong") == [0.75, 0.25, 0.0, 0.0]
    assert Estimator().q(values([6, 2, 8], [8, 8, 8]), "correct") == [0.75, 0.25, 1.0, 1.0]
    q = Estimator().q(values([6, 0], [8, 0]), "wrong")
    assert (q[0], math.isnan(q[1]), q[2]) == (0.75, True, 0.0)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_only_a_correct_outcome_is_worth_anything(outcome):
    assert Estimator().q(values([4], [8]), outcome)[-1] == (1.0 if outcome == CORRECT else 0.0)


def test_advantages_by_hand():
    """Q = 3/4, 1/4, 1/2, then wrong: the first step costs 1/2, the second gains 1/4, the last costs 1/2."""
    assert advantages(Estimator().q(values([6, 2, 4], [8, 8, 8]), "wrong")) == [-0.5, 0.25, -0.5]


@given(st.lists(st.integers(0, 16), min_size=1, max_size=12), st.booleans())
def test_advantages_add_up_to_the_outcome_less_the_value_of_the_prompt(correct, right):
    q = Estimator().q(values(correct, [16] * len(correct)), "correct" if right else "wrong")
    credit = advantages(q)
    assert len(q) == len(correct) + 1
    assert len(credit) == len(correct)
    assert math.isclose(sum(credit), right - q[0], abs_tol=1e-12)
    assert all(-1 <= a <= 1 for a in credit)


@pytest.mark.parametrize(
    ("correct", "lowest_q", "lowest_advantage", "zero_q"),
    [
        # Q after the steps is 1/2, 1/8, 1/4, 0; advantages -1/4, -3/8, 1/8, -1/4.
        ([6, 4, 1, 2], 3, 1, 3),
        # Nothing is lost before the last step: it is the pit by any definition.
        ([4, 4, 6], 2, 2, 2),
        # Two estimates are 0: the first of them.
        ([4, 2, 0], 1, 0, 1),
        # Equal advantages of -1/4: the first.
        ([6, 4, 2], 2, 0, 2),
        # A single step.
        ([6], 0, 0, 0),
        # An unknown value is passed over, and so are the two advantages it is part of.
        ([6, None, 4], 2, 2, 2),
    ],
)
def test_first_pit_by_hand(correct, lowest_q, lowest_advantage, zero_q):
    row = values([c or 0 for c in correct], [0 if c is None else 8 for c in correct])
    assert Estimator().first_pit(row, "wrong") == Estimator("lowest_q").first_pit(row, "wrong") == lowest_q
    assert Estimator("lowest_advantage").first_pit(row, "wrong") == lowest_advantage
    assert Estimator("zero_q").first_pit(row, "wrong") == zero_q


@pytest.mark.parametrize(
    ("correct", "min_drop", "pit"),
    [
        # 8 of 8, then 0 of 8: no doubt.
        ([8, 8, 0, 0], 0.0, 1),
        ([8, 8, 0, 0], 0.5, 1),
        # 5 of 8, then 3 of 8 may be chance; that the last step ended in a wrong answer is not.
        ([5, 3], 0.0, 1),
        # It lost something for sure, but may well have lost less than 0.9.
        ([5, 3], 0.9, None),
    ],
)
def test_posterior_pit_by_hand(correct, min_drop, pit):
    row = values(correct, [8] * len(correct))
    assert Estimator("posterior", min_drop=min_drop).first_pit(row, "wrong") == pit


def test_a_pit_that_the_rollouts_were_spent_on_is_the_pit():
    row = StepValues("p", 0, [1, 2, 3], [0, 1, 0], [0, 1, 8], pit=1)
    assert {Estimator(definition).first_pit(row, "wrong") for definition in PITS} == {1}


def test_best_of_k_makes_q_higher_and_leaves_its_ends():
    row = values([6, 2, 0], [8, 8, 8])
    q, best = Estimator().q(row, "wrong"), Estimator(best_of=5).q(row, "wrong")
    assert best == pytest.approx([1.0, 1 - math.comb(6, 5) / math.comb(8, 5), 0.0, 0.0])
    assert Estimator(best_of=5, biased=True).q(row, "wrong") == pytest.approx([1 - (1 - x) ** 5 for x in q])


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12), st.sampled_from(["lowest_q", "lowest_advantage"]))
def test_no_step_before_the_pit_is_as_bad_and_none_is_worse(correct, definition):
    row = values(correct, [8] * len(correct))
    q = Estimator().q(row, "wrong")
    scores = q[1:] if definition == "lowest_q" else advantages(q)
    pit = Estimator(definition).first_pit(row, "wrong")
    assert scores[pit] == min(scores)
    assert all(score > scores[pit] for score in scores[:pit])


def trace(sample: int, ids: list[int], outcome: str, problem: str = "p") -> Trace:
    return Trace(problem, sample, [1], ids, "", "stop", outcome)


def flags(wrong=-1, correct=-1, seed=0, skip_all_right=False, skip_all_wrong=False) -> dict:
    return {
        "value.wrong_per_problem": wrong,
        "value.correct_per_problem": correct,
        "value.skip_all_right": skip_all_right,
        "value.skip_all_wrong": skip_all_wrong,
        "seed": seed,
    }


def test_truncated_and_timed_out_answers_are_not_valued_and_equal_ones_are_valued_once():
    answers = [
        trace(0, [5], "correct"),
        trace(1, [6], "wrong"),
        trace(2, [7], "no_answer"),
        trace(3, [8], "truncated"),
        trace(4, [9], "timed_out"),
        trace(5, [], "no_answer"),
        trace(6, [6], "wrong"),
        trace(7, [5], "correct"),
    ]
    dropped = Counter()
    chosen = choose(answers, flags(), dropped)
    assert sorted((t.token_ids, t.outcome) for t in chosen) == [([5], "correct"), ([6], "wrong"), ([7], "no_answer")]
    assert +dropped == {"truncated": 1, "timed_out": 1, "empty": 1, "duplicate": 2}


def test_problems_answered_all_right_or_all_wrong_are_skipped_when_asked_and_counted():
    right, wrong = [trace(i, [i], "correct") for i in range(3)], [trace(i, [i], "wrong") for i in range(4)]
    for answers, flag in ((right, "all_right"), (wrong, "all_wrong")):
        dropped = Counter()
        assert choose(answers, flags(**{f"skip_{flag}": True}), dropped) == []
        assert +dropped == {flag: len(answers)}
        other = "skip_all_wrong" if flag == "all_right" else "skip_all_right"
        assert choose(answers, flags(**{other: True}), Counter()) == answers
    both = [trace(0, [1], "correct"), trace(1, [2], "wrong")]
    assert choose(both, flags(skip_all_right=True, skip_all_wrong=True), Counter()) == both


OUTCOME_LISTS = st.lists(st.tuples(st.sampled_from(OUTCOMES), st.integers(0, 5)), max_size=30)


@given(OUTCOME_LISTS, st.integers(-1, 3), st.integers(-1, 3), st.integers(0, 3))
def test_limits_hold_an_outcome_equal_seeds_choose_equally_and_all_is_counted(rows, wrong, correct, seed):
    # Equal ids have equal outcomes, as a deterministic grader gives them.
    traces = [trace(i, [ids, OUTCOMES.index(outcome)], outcome) for i, (outcome, ids) in enumerate(rows)]
    dropped = Counter()
    chosen = choose(traces, flags(wrong, correct, seed), dropped)
    assert chosen == choose(traces, flags(wrong, correct, seed), Counter())
    assert len(traces) == len(chosen) + dropped.total()
    for outcomes, limit in ((("correct",), correct), (("wrong", "no_answer"), wrong)):
        there = {tuple(t.token_ids) for t in traces if t.outcome in outcomes}
        taken = [tuple(t.token_ids) for t in chosen if t.outcome in outcomes]
        assert len(taken) == len(set(taken)) == (len(there) if limit < 0 else min(limit, len(there)))
        assert set(taken) <= there
    assert all(t.outcome in ("correct", "wrong", "no_answer") for t in chosen)
