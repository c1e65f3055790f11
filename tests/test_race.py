"""The budget `race`, on policies whose values are known: what it asks for, when it stops, what its pairs are worth."""

import asyncio
import random

import numpy as np
import pytest
from race_vs_exhaustive import Wide, raced

from openrlhf_negdata.records import CORRECT, WRONG
from openrlhf_negdata.steps.monte_carlo import Answer, Budget, Draw, value_problem
from openrlhf_negdata.steps.race import LEAST, apart, race, widest
from openrlhf_negdata.tasks import load


class Steps:
    """A policy of two steps a response, a token each. From the prompt it takes ``first`` in turn; a response that
    begins with step s is right with chance ``q[s]``. It remembers the prefixes it was asked for."""

    def __init__(self, first: list[int], q: dict[int, float]) -> None:
        self.first, self.q = first, q
        self.asked: list[tuple[tuple, int]] = []

    def draw(self, prefix: tuple, number: int) -> Draw:
        assert len(prefix) < 2, "a whole response is not rolled out"
        response = (*prefix, *([] if prefix else [self.first[number % len(self.first)]]), 0)
        right = random.Random(f"{prefix} {number}").random() < self.q[response[0]]
        return Draw(list(response[len(prefix) :]), CORRECT if right else WRONG)

    async def roll_out(self, prefix, first, count):
        self.asked += [(prefix, number) for number in range(first, first + count)]
        await asyncio.sleep(0)
        return [self.draw(prefix, number) for number in range(first, first + count)]

    async def next_steps(self, prefix, continuations):
        return [None if len(ids) == 1 else ((ids[0],), ids[0]) for ids in continuations]

    def race(self, *answers: int, **settings):
        given = [Answer([step, 0], [1, 2], False) for step in answers]
        return asyncio.run(value_problem(given, Budget("race", **settings), self.roll_out, self.next_steps))


def made(draws) -> dict:
    return {prefix: len(some) for prefix, some in draws.items()}


def test_nothing_races_where_all_is_right_or_all_wrong_or_one_step_is_taken():
    assert made(Steps([1, 2], {1: 0, 2: 0}).race(1)[0]) == {(): 8}
    assert made(Steps([1, 2], {1: 1, 2: 1}).race(1)[0]) == {(): 8, (1,): 8}
    assert made(Steps([1], {1: 0.5}).race(1)[0]) == {(): 8, (1,): 8}


def test_a_race_ends_as_soon_as_two_steps_are_told_apart():
    draws, pits = Steps([1, 2, 3], {1: 1, 2: 0, 3: 1}).race(2)
    assert pits == [None]
    assert sum(made(draws).values()) < 8 + 8 + 16
    undecided, _ = Steps([1, 2, 3], {1: 1, 2: 0.9, 3: 1}).race(2)
    assert sum(made(undecided).values()) == 8 + 8 + Budget.n_race


def test_a_race_of_equal_steps_ends_with_what_a_prefix_may_cost():
    draws, _ = Steps([1, 2, 3, 4], dict.fromkeys(range(1, 5), 0.5)).race(1, n_race=21)
    assert sum(made(draws).values()) == 8 + 8 + 20


def test_what_is_drawn_does_not_depend_on_the_order_of_the_answers_or_on_what_was_asked_before():
    steps = [Steps([1, 2, 3, 4], {1: 0.9, 2: 0.4, 3: 0.2, 4: 0.6}) for _ in range(2)]
    forth, _ = steps[0].race(1, 3, 4)
    back, _ = steps[1].race(4, 3, 1)
    assert forth == back
    for one in steps:
        assert len(one.asked) == len(set(one.asked)) == sum(map(len, forth.values()))
    assert all(some == [steps[0].draw(prefix, i) for i in range(len(some))] for prefix, some in forth.items())


def test_a_step_in_two_wordings_is_one_candidate():
    """Steps 1 and 11 are the same: they do not race against each other, and one of them is rolled out."""

    class Worded(Steps):
        async def next_steps(self, prefix, continuations):
            return [None if len(ids) == 1 else ((ids[0],), ids[0] % 10) for ids in continuations]

    assert made(Worded([1, 11], {1: 1, 11: 0}).race(11)[0]) == {(): 8, (11,): 8}
    draws, _ = Worded([1, 11, 2], {1: 1, 11: 1, 2: 0}).race(2)
    assert (11,) not in draws
    assert (1,) in draws


@pytest.mark.parametrize("shape", [(1.0, 1.0), (0.7, 2.0)])
def test_of_the_pairs_of_a_race_95_in_100_have_the_gap_that_was_asked_for(shape):
    result = raced([Wide(seed, shape) for seed in range(150)], 4, Budget("race"))
    true = np.array([gap for gap, _ in result.pairs])
    assert len(true) > 50
    assert np.mean(true >= Budget.gap) >= 0.95


def test_a_few_rollouts_decide_nothing():
    """All rollouts of one candidate are right, none of the other: both get what they lack of the least number."""
    asked = []

    async def look(candidate, count):
        asked.append((candidate, count))
        return 0 if candidate else count

    asyncio.run(race([(LEAST - 1, LEAST - 1), (0, LEAST - 2)], [0, 0], look, 64, 0.0, 0.9))
    assert asked == [(1, 2), (0, 2)]


def test_the_widest_gap_by_hand():
    assert widest({"a": (4, 8), "b": (8, 8), "c": (0, 8)}) == ("b", "c")
    assert widest({"a": (8, 8), "b": 1.0, "c": (0, 8), "d": 0.0}) == ("b", "d")
    assert (apart({"a": 1.0, "b": 0.0}, 0.3), apart({"a": 1.0}, 0.3)) == (1, 0)
    rng = np.random.default_rng(0)
    sampled = np.mean(1 - rng.beta(2.5, 6.5, 400_000) > 0.5)
    assert apart({"a": 1.0, "b": (2, 8)}, 0.5) == pytest.approx(sampled, abs=0.003)


def test_what_only_a_race_reads_is_in_no_other_budgets_settings():
    """The manifests of exhaustive and sequential runs are what they were before there were races."""
    names = {"kind", "n_rollouts", "threshold", "confidence"}
    assert set(Budget().settings()) == set(Budget("sequential").settings()) == names
    assert Budget(**Budget("race", gap=0.2).settings()) == Budget("race", gap=0.2)


def test_arithmetic_written_with_other_white_space_is_the_same_step():
    key = load("word_problems").step_key
    assert key("12 - 9 = 3\n") == key("12-9=3\n\n") == key(" 12 -9  = 3")
    assert key("12 - 9 = 3\n") != key("12 - 9 = 3</s>")
    assert key("1 2 apples") != key("12 apples")
    assert load("running_value").step_key("+1 2 ;") is None
