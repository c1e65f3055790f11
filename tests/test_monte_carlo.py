"""Rolling out prefixes of policies whose values are known exactly (benchmarks/tabular.py): estimates are right on
average, their intervals hold the truth, and every budget finds what it says for no more than it says."""

import asyncio
import itertools

import numpy as np
import pytest
import tabular

from openrlhf_negdata.records import CORRECT, WRONG, Rollout, StepValues
from openrlhf_negdata.steps.estimates import advantage, best_of, chance_below, jeffreys
from openrlhf_negdata.steps.monte_carlo import Answer, Budget, Draw, value_problem
from openrlhf_negdata.steps.values import Estimator, halves


def value(policy, answers, budget):
    return asyncio.run(value_problem(answers, budget, policy.roll_out))


def counts(draws) -> dict:
    return {prefix: (sum(draw.outcome == CORRECT for draw in made), len(made)) for prefix, made in draws.items()}


@pytest.mark.parametrize(
    "policy", [tabular.Table(3, steps=4, floor=0.2), tabular.Star(3, arms=3, length=3, slips=0.2)]
)
def test_the_q_that_is_called_exact_is_what_many_draws_come_to(policy):
    for prefix in ((), tuple(policy.draw((), 0).token_ids[:2])):
        right = [policy.draw(prefix, number).outcome == CORRECT for number in range(4000)]
        assert abs(np.mean(right) - policy.q(prefix)) < 4 * 0.5 / 4000**0.5
        assert policy.q(prefix) == pytest.approx(super(type(policy), policy).q(prefix) if prefix else policy.q(prefix))


@pytest.fixture(scope="module")
def estimated() -> dict:
    """By budget: (exact Q, right, made) of over 2,000 prefixes, of policies whose Q are spread over (0, 1)."""
    found = {}
    for kind in ("exhaustive", "sequential"):
        rows = []
        for seed in range(300 if kind == "exhaustive" else 900):
            policy = tabular.Table(seed, steps=8, floor=0.1)
            wrong = policy.answers(1, correct=False)
            draws, _ = value(policy, wrong, Budget(kind, 16, threshold=0.3))
            rows += [(policy.q(prefix), *count) for prefix, count in counts(draws).items()]
        found[kind] = rows
    return found


@pytest.mark.parametrize("kind", ["exhaustive", "sequential"])
def test_intervals_hold_the_exact_value_95_times_in_100(estimated, kind):
    rows = estimated[kind]
    assert len(rows) > 2000
    held = []
    for q, right, made in rows:
        _, low, high = jeffreys(right, made)
        held.append(low <= q <= high)
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.parametrize("k", [1, 5])
def test_exhaustive_estimates_are_unbiased(estimated, k):
    rows = estimated["exhaustive"]
    errors = np.array([best_of(right, made, k) - (1 - (1 - q) ** k) for q, right, made in rows])
    assert abs(errors.mean()) < 4 * errors.std() / len(errors) ** 0.5


def test_the_biased_best_of_k_is_low_and_sequential_values_are_high(estimated):
    """It stops when a rollout is right, or when many are not: what it leaves is no fair estimate (docs/steps.md)."""
    rows = estimated["exhaustive"]
    assert np.mean([best_of(r, n, 5, biased=True) - (1 - (1 - q) ** 5) for q, r, n in rows]) < -0.01
    assert np.mean([r / n - q for q, r, n in estimated["sequential"]]) > 0.01


def test_best_of_by_hand():
    """Two of 1 right and 3 wrong: 3 of the 6 pairs hold the right one."""
    assert best_of(1, 4, 2) == pytest.approx(1 / 2)
    assert best_of(1, 4, 2, biased=True) == pytest.approx(1 - (3 / 4) ** 2)
    assert best_of(3, 8, 1) == jeffreys(3, 8).value
    assert (best_of(0, 8, 5), best_of(8, 8, 5)) == (0, 1)
    with pytest.raises(ValueError, match="best of 5 needs 5"):
        best_of(1, 4, 5)
    assert best_of(1, 4, 5, biased=True) == pytest.approx(1 - (3 / 4) ** 5)


def test_the_unbiased_best_of_k_is_the_share_among_all_choices():
    outcomes = [1, 0, 0, 1, 0, 0]
    chosen = [max(some) for some in itertools.combinations(outcomes, 3)]
    assert best_of(2, 6, 3) == pytest.approx(np.mean(chosen))


def test_advantage_interval_is_newcombes_example():
    """Newcombe 1998, table II (a): 56/70 against 48/80, method 10: 0.0524 to 0.3339."""
    assert advantage((48, 80), (56, 70)) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_advantage_intervals_hold_the_exact_advantage_95_times_in_100(estimated):
    rng, held = np.random.default_rng(0), []
    for q, p in rng.uniform(size=(2000, 2)):
        _, low, high = advantage((int(rng.binomial(8, q)), 8), (int(rng.binomial(8, p)), 8))
        held.append(low <= p - q <= high)
    assert 0.93 <= np.mean(held) <= 0.98


def test_chance_that_a_step_lost_something_by_hand():
    assert chance_below((4, 8), (4, 8)) == pytest.approx(0.5, abs=0.002)
    assert chance_below((8, 8), (0, 8)) > 0.9999
    assert chance_below((0, 8), (8, 8)) < 0.0001
    # P(Beta(1/2, 1/2) > 1/2) = 1/2 for what one could know of Q before any rollout but one of each kind.
    assert chance_below((1, 2), 0.0, drop=0.5) == pytest.approx(0.5, abs=0.002)
    assert chance_below((1, 2), 0.0) == 1
    assert chance_below((8, 8), (0, 8), drop=0.9) < chance_below((8, 8), (0, 8), drop=0.5)


def test_chance_that_a_step_lost_something_is_that_of_draws_from_both_posteriors():
    rng = np.random.default_rng(0)
    q, p = rng.beta(5.5, 3.5, 400_000), rng.beta(2.5, 6.5, 400_000)
    assert chance_below((5, 8), (2, 8), drop=0.1) == pytest.approx(np.mean(p < q - 0.1), abs=0.003)


class Scripted:
    """A policy that answers from a prefix with the outcomes it was given, in turn; ``asked`` says what for."""

    def __init__(self, outcomes: dict) -> None:
        self.outcomes = outcomes
        self.asked: list = []

    async def roll_out(self, prefix, first, count):
        self.asked.append((len(prefix), first, count))
        await asyncio.sleep(0)
        told = self.outcomes[len(prefix)]
        return [Draw([9], CORRECT if told[number % len(told)] else WRONG) for number in range(first, first + count)]


ANSWER = Answer([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], False)


def test_sequential_walks_to_the_first_step_that_lost_it_and_no_further():
    """After step 0 the first rollout is right; after step 1 the third; after step 2 none of 8."""
    policy = Scripted({1: [1], 2: [0, 0, 1, 0], 3: [0]})
    draws, pits = value(policy, [ANSWER], Budget("sequential", 8))
    assert pits == [2]
    assert policy.asked == [(1, 0, 1), (2, 0, 1), (2, 1, 1), (2, 2, 2), (3, 0, 1), (3, 1, 1), (3, 2, 2), (3, 4, 4)]
    assert counts(draws) == {(1,): (1, 1), (1, 2): (1, 4), (1, 2, 3): (0, 8)}


def test_a_wrong_answer_that_is_never_lost_was_lost_by_its_last_step():
    assert value(Scripted(dict.fromkeys(range(5), [1])), [ANSWER], Budget("sequential", 8))[1] == [4]
    single = Answer([1, 2], [2], False)
    assert value(Scripted({}), [single], Budget("sequential", 8)) == ({}, [0])


@pytest.mark.parametrize("n_rollouts", [1, 3, 8, 20, 21, 40])
@pytest.mark.parametrize("threshold", [0.001, 0.05, 0.2])
@pytest.mark.parametrize("confidence", [0.6, 0.9])
def test_sequential_is_said_to_name_the_step_of_exhaustive_just_where_it_does(n_rollouts, threshold, confidence):
    """A step after which exactly one rollout is right, the first or the last or one between, and one after which none
    is: exhaustive names the second, whatever the first."""
    budget = Budget("sequential", n_rollouts, threshold, confidence)
    agrees = True
    for right in range(n_rollouts):
        told = [number == right for number in range(n_rollouts)]
        policy = Scripted({1: told, 2: [0], 3: [1], 4: [1]})
        agrees &= value(policy, [ANSWER], budget)[1] == [1]
    assert budget.stops_where_none_is_right() == agrees


def test_the_default_names_the_step_of_exhaustive_up_to_twenty_rollouts():
    assert [k for k in range(1, 60) if Budget("sequential", k).stops_where_none_is_right()] == [*range(1, 21)]


def test_correct_answers_have_no_pit_and_only_exhaustive_rolls_them_out():
    right = Answer([1, 2], [1, 2], True)
    assert value(Scripted({}), [right], Budget("sequential", 8)) == ({}, [None])
    draws, pits = value(Scripted({0: [1], 1: [1]}), [right], Budget("exhaustive", 8))
    assert (counts(draws), pits) == ({(): (8, 8), (1,): (8, 8)}, [None])


@pytest.mark.parametrize("kind", ["exhaustive", "sequential"])
def test_a_shared_prefix_is_rolled_out_once_and_order_does_not_matter(kind):
    policy = tabular.Table(5, floor=0.1)
    answers = policy.answers(6, correct=False) + policy.answers(2, correct=True)
    asked = []

    async def roll_out(prefix, first, count):
        asked.extend((prefix, number) for number in range(first, first + count))
        await asyncio.sleep(0)
        return await policy.roll_out(prefix, first, count)

    budget = Budget(kind, 8, threshold=0.3)
    draws, pits = asyncio.run(value_problem(answers, budget, roll_out))
    assert len(asked) == len(set(asked)) == sum(map(len, draws.values()))
    backwards, pits_backwards = value(policy, answers[::-1], budget)
    assert pits_backwards[::-1] == pits
    assert {prefix: len(made) for prefix, made in backwards.items()} == {p: len(made) for p, made in draws.items()}
    assert all(backwards[prefix] == made for prefix, made in draws.items())
    # Draws do not depend on the budget: those of exhaustive begin with the same.
    alike, _ = value(policy, answers, Budget("exhaustive", 16))
    assert all(alike[prefix][: len(made)] == made for prefix, made in draws.items())


def test_sequential_decides_as_exhaustive_rollouts_would():
    """Until one is right or K are not: the first pit is where exhaustive, with equal K, has its first Q of zero."""
    for seed in range(40):
        policy = tabular.Table(seed)
        wrong = policy.answers(4, correct=False)
        _, pits = value(policy, wrong, Budget("sequential", 8))
        every = counts(value(policy, wrong, Budget("exhaustive", 8))[0])
        for answer, pit in zip(wrong, pits, strict=True):
            made = [every[prefix] for prefix in answer.prefixes()]
            row = StepValues("p", 0, list(answer.step_ends), [c for c, _ in made], [n for _, n in made])
            assert pit == Estimator("zero_q").first_pit(row, WRONG) == Estimator("lowest_q").first_pit(row, WRONG)


def test_what_chose_a_pit_flatters_it_and_the_other_half_does_not():
    """With Q the same everywhere, no step loses anything, and the one blamed seems to lose much."""
    rng = np.random.default_rng(0)
    traces, values, rollouts = {}, [], []
    for number in range(300):
        traces[f"p{number}", 0] = [1, 2, 3, 4]
        for length in range(4):
            for _ in range(8):
                outcome = CORRECT if rng.random() < 0.5 else WRONG
                rollouts.append(Rollout(f"p{number}", [1, 2, 3, 4][:length], [5], outcome, 0))
        values.append(StepValues(f"p{number}", 0, [1, 2, 3, 4], [0] * 4, [8] * 4))
    chose, other = [], []
    for even, odd in halves(traces, values, rollouts):
        assert even.count == odd.count == [4] * 4
        # The last step is known to be wrong; the pit among the others is noise.
        q = [[c / 4 for c in half.correct] for half in (even, odd)]
        drops = np.diff(q, axis=1)
        pit = int(drops[0].argmin())
        chose.append(drops[0][pit])
        other.append(drops[1][pit])
    assert np.mean(chose) < -0.3
    assert abs(np.mean(other)) < 0.1
