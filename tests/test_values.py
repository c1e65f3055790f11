"""Values, advantages and first pits on examples worked by hand; which answers are valued."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_negdata.cli.value import _distinct_prefixes, _Valued, choose
from openrlhf_negdata.rollouts.store import StepValues, Trace
from openrlhf_negdata.steps.values import advantages, first_pit, step_q
from openrlhf_negdata.tasks import CORRECT, OUTCOMES


def values(correct, count) -> StepValues:
    return StepValues("p", 0, list(range(1, len(count) + 1)), correct, count)


def test_q_is_the_share_of_right_rollouts_and_the_outcome_at_the_end():
    assert step_q(values([6, 2, 0], [8, 8, 8]), "wrong") == [0.75, 0.25, 0.0, 0.0]
    assert step_q(values([6, 2, 8], [8, 8, 8]), "correct") == [0.75, 0.25, 1.0, 1.0]
    q = step_q(values([6, 0], [8, 0]), "wrong")
    assert (q[0], math.isnan(q[1]), q[2]) == (0.75, True, 0.0)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_only_a_correct_outcome_is_worth_anything(outcome):
    assert step_q(values([4], [8]), outcome)[-1] == (1.0 if outcome == CORRECT else 0.0)


def test_advantages_by_hand():
    """Q = 3/4, 1/4, 1/2, then wrong: the first step costs 1/2, the second gains 1/4, the last costs 1/2."""
    assert advantages(step_q(values([6, 2, 4], [8, 8, 8]), "wrong")) == [-0.5, 0.25, -0.5]


@given(st.lists(st.integers(0, 16), min_size=1, max_size=12), st.booleans())
def test_advantages_add_up_to_the_outcome_less_the_value_of_the_prompt(correct, right):
    q = step_q(values(correct, [16] * len(correct)), "correct" if right else "wrong")
    credit = advantages(q)
    assert len(q) == len(correct) + 1
    assert len(credit) == len(correct)
    assert math.isclose(sum(credit), right - q[0], abs_tol=1e-12)
    assert all(-1 <= a <= 1 for a in credit)


@pytest.mark.parametrize(
    ("q", "lowest_q", "lowest_advantage"),
    [
        # Q after the steps is 1/2, 1/8, 1/4, 0; advantages -1/4, -3/8, 1/8, -1/4.
        ([3 / 4, 1 / 2, 1 / 8, 1 / 4, 0.0], 3, 1),
        # Nothing is lost before the last step: it is the pit either way.
        ([1 / 2, 1 / 2, 3 / 4, 0.0], 2, 2),
        # Two estimates are 0: the first of them.
        ([1 / 2, 1 / 4, 0.0, 0.0], 1, 0),
        # Equal advantages of -1/4: the first.
        ([3 / 4, 1 / 2, 1 / 4, 0.0], 2, 0),
        # A single step.
        ([3 / 4, 0.0], 0, 0),
        # An unknown value is passed over, and so are the two advantages it is part of.
        ([3 / 4, math.nan, 1 / 2, 0.0], 2, 2),
    ],
)
def test_first_pit_by_hand(q, lowest_q, lowest_advantage):
    assert first_pit(q) == first_pit(q, "lowest_q") == lowest_q
    assert first_pit(q, "lowest_advantage") == lowest_advantage


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12), st.sampled_from(["lowest_q", "lowest_advantage"]))
def test_no_step_before_the_pit_is_as_bad_and_none_is_worse(correct, definition):
    q = step_q(values(correct, [8] * len(correct)), "wrong")
    scores = q[1:] if definition == "lowest_q" else advantages(q)
    pit = first_pit(q, definition)
    assert scores[pit] == min(scores)
    assert all(score > scores[pit] for score in scores[:pit])


def trace(sample: int, ids: list[int], outcome: str, problem: str = "p") -> Trace:
    return Trace(problem, sample, [1], ids, "", "stop", outcome)


def test_truncated_and_timed_out_answers_are_not_valued_and_equal_ones_are_valued_once():
    given_traces = [
        trace(0, [5], "correct"),
        trace(1, [6], "wrong"),
        trace(2, [7], "no_answer"),
        trace(3, [8], "truncated"),
        trace(4, [9], "timed_out"),
        trace(5, [], "no_answer"),
        trace(6, [6], "wrong"),
        trace(7, [5], "correct"),
        trace(0, [5], "wrong", problem="q"),
    ]
    chosen = choose(given_traces, -1, -1, 0)
    assert sorted((t.problem, t.token_ids, t.outcome) for t in chosen) == [
        ("p", [5], "correct"),
        ("p", [6], "wrong"),
        ("p", [7], "no_answer"),
        ("q", [5], "wrong"),
    ]


OUTCOME_LISTS = st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from(OUTCOMES), st.integers(0, 5)), max_size=30)


@given(OUTCOME_LISTS, st.integers(-1, 3), st.integers(-1, 3), st.integers(0, 3))
def test_limits_hold_a_problem_and_an_outcome_and_equal_seeds_choose_equally(rows, wrong, correct, seed):
    # Equal ids have equal outcomes, as a deterministic grader gives them.
    traces = [
        trace(i, [ids, OUTCOMES.index(outcome)], outcome, problem) for i, (problem, outcome, ids) in enumerate(rows)
    ]
    chosen = choose(traces, wrong, correct, seed)
    assert chosen == choose(traces, wrong, correct, seed)
    for problem in "pq":
        for outcomes, limit in ((("correct",), correct), (("wrong", "no_answer"), wrong)):
            there = {tuple(t.token_ids) for t in traces if t.problem == problem and t.outcome in outcomes}
            taken = [tuple(t.token_ids) for t in chosen if t.problem == problem and t.outcome in outcomes]
            assert len(taken) == len(set(taken)) == (len(there) if limit < 0 else min(limit, len(there)))
            assert set(taken) <= there
    assert all(t.outcome in ("correct", "wrong", "no_answer") for t in chosen)


def test_equal_prefixes_of_a_problem_are_rolled_out_once_and_each_step_gets_the_count_of_its_own():
    """Answers 5 6 | 7 8 and 5 6 | 9 of problem p share the prompt and 5 6; those of q are another problem's."""
    first = _Valued(trace(0, [5, 6, 7, 8], "wrong"), [2, 4])
    second = _Valued(trace(1, [5, 6, 9], "correct"), [2, 3])
    other = _Valued(trace(0, [5, 6, 7, 8], "wrong", "q"), [2, 4])
    prefixes = _distinct_prefixes([first, second, other])
    assert list(prefixes) == [("p", ()), ("p", (5, 6)), ("q", ()), ("q", (5, 6))]
    assert prefixes["p", (5, 6)] == ([1], (5, 6))
    correct = Counter({("p", ()): 3, ("p", (5, 6)): 1, ("q", ()): 2})
    assert first.values(correct, 4) == StepValues("p", 0, [2, 4], [3, 1], [4, 4])
    assert second.values(correct, 4) == StepValues("p", 1, [2, 3], [3, 1], [4, 4])
    assert other.values(correct, 4) == StepValues("q", 0, [2, 4], [2, 0], [4, 4])
