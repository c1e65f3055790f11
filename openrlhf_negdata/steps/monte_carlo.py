"""Rolling out the prefixes of a problem's answers: what the step-advantage executor does inside a rollout actor.

Nothing here knows an engine: :func:`value_problem` is given a coroutine that draws and grades continuations, so a
policy whose values are known exactly can take the engine's place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from scipy.special import betainc

from openrlhf_negdata.records import CORRECT

BUDGETS = ("exhaustive", "sequential")
Prefix = tuple[int, ...]


@dataclass(frozen=True)
class Budget:
    """How many rollouts the prefixes of an answer get.

    ``exhaustive``: ``n_rollouts`` from before every step.

    ``sequential``: only what it takes to find the first pit of a wrong answer, the first step after which the answer
    is lost. From the first step on, each prefix is rolled out 1, 2, 4, ... times, at most ``n_rollouts``, until it is
    decided whether the answer is lost there, and nothing after the pit is rolled out.

    An answer is lost where Q < ``threshold``. That is decided when its posterior chance (Jeffreys' prior) is at least
    ``confidence`` or at most 1 - ``confidence``, else by the share of right rollouts when ``n_rollouts`` are made.
    """

    kind: str = "exhaustive"
    n_rollouts: int = 8
    threshold: float = 0.05
    confidence: float = 0.9

    def lost(self, right: int, count: int) -> bool | None:
        """Whether an answer is lost where ``right`` of the first ``count`` rollouts are; None if more must tell."""
        below = betainc(right + 0.5, count - right + 0.5, self.threshold)
        if max(below, 1 - below) >= self.confidence:
            return bool(below > 0.5)
        return right < self.threshold * count if count == self.n_rollouts else None

    def looks(self) -> Iterator[int]:
        """How many rollouts there are each time that :meth:`lost` is asked."""
        count = 1
        while count < self.n_rollouts:
            yield count
            count *= 2
        yield self.n_rollouts

    def stops_where_none_is_right(self) -> bool:
        """Whether an answer is lost just where none of ``n_rollouts`` is right, so that ``sequential`` names the step
        that ``exhaustive`` names with ``lowest_q``. More right rollouts make no answer lost that fewer do not."""
        *early, last = self.looks()
        none_tells = all(self.lost(0, count) is None for count in early) and self.lost(0, last) is True
        return none_tells and not any(self.lost(1, count) for count in [*early, last])


@dataclass(frozen=True)
class Draw:
    """One graded rollout: sampled token ids and the outcome of the whole response they complete."""

    token_ids: list[int]
    outcome: str


@dataclass(frozen=True)
class Answer:
    """A response to be valued: its token ids, where its steps end, whether it was graded correct."""

    token_ids: Sequence[int]
    step_ends: Sequence[int]
    correct: bool

    def prefixes(self) -> list[Prefix]:
        """The response before each step, the first of them empty, as many as there are steps."""
        return [tuple(self.token_ids[:start]) for start in [0, *self.step_ends[:-1]]]


#: ``roll_out(prefix, first, count)``: the draws number ``first`` to ``first + count - 1`` from a prefix.
RollOut = Callable[[Prefix, int, int], Awaitable[list[Draw]]]


class _Draws:
    """The draws made from each prefix so far. A prefix that several answers share is rolled out once."""

    def __init__(self, roll_out: RollOut) -> None:
        self.roll_out = roll_out
        self.made: dict[Prefix, list[Draw]] = {}
        self.locks: dict[Prefix, asyncio.Lock] = {}

    async def first(self, count: int, prefix: Prefix) -> int:
        """How many of the first ``count`` draws from ``prefix`` are right. Never more are looked at, though another
        answer may have asked for more: so a decision does not depend on which answer came first."""
        async with self.locks.setdefault(prefix, asyncio.Lock()):
            made = self.made.setdefault(prefix, [])
            if len(made) < count:
                made += await self.roll_out(prefix, len(made), count - len(made))
        return sum(draw.outcome == CORRECT for draw in made[:count])


async def value_problem(
    answers: Sequence[Answer], budget: Budget, roll_out: RollOut
) -> tuple[dict[Prefix, list[Draw]], list[int | None]]:
    """Roll out what ``budget`` asks for the answers to one problem.

    Returns the draws by prefix, in the order of the answers and short to long, and the first pit of each answer where
    the budget decides one: a step, or None. A correct answer has no pit, and only ``exhaustive`` rolls it out.
    """
    draws = _Draws(roll_out)
    if budget.kind == "exhaustive":
        prefixes = dict.fromkeys(prefix for answer in answers for prefix in answer.prefixes())
        await asyncio.gather(*(draws.first(budget.n_rollouts, prefix) for prefix in prefixes))
        pits: list[int | None] = [None] * len(answers)
    else:

        async def pit(answer: Answer) -> int | None:
            return None if answer.correct else await _first_lost(answer, budget, draws)

        pits = list(await asyncio.gather(*map(pit, answers)))
    order = dict.fromkeys(prefix for answer in answers for prefix in answer.prefixes() if prefix in draws.made)
    return {prefix: draws.made[prefix] for prefix in order}, pits


async def _is_lost(prefix: Prefix, budget: Budget, draws: _Draws) -> bool:
    for count in budget.looks():
        lost = budget.lost(await draws.first(count, prefix), count)
        if lost is not None:
            return lost
    raise AssertionError("the last look decides")


async def _first_lost(answer: Answer, budget: Budget, draws: _Draws) -> int:
    """The first step after which the answer is lost; after the last step a wrong answer is."""
    for step, prefix in enumerate(answer.prefixes()[1:]):
        if await _is_lost(prefix, budget, draws):
            return step
    return len(answer.step_ends) - 1
