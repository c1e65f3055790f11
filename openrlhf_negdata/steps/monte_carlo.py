"""Rolling out the prefixes of a problem's answers: what the step-advantage executor does inside a rollout actor.

Nothing here knows an engine: :func:`value_problem` is given a coroutine that draws and grades continuations, so a
policy whose values are known exactly can take the engine's place.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass

from scipy.special import betainc

from openrlhf_negdata.records import CORRECT
from openrlhf_negdata.steps.race import Counts, race

BUDGETS = ("exhaustive", "sequential", "race")
#: Settings that other budgets do not read.
RACE_ONLY = ("gap", "gap_confidence", "n_race")
Prefix = tuple[int, ...]


@dataclass(frozen=True)
class Budget:
    """How many rollouts the prefixes of an answer get.

    ``exhaustive``: ``n_rollouts`` from before every step.

    ``sequential``: only what it takes to find the first pit of a wrong answer, the first step after which the answer
    is lost. From the first step on, each prefix is rolled out 1, 2, 4, ... times, at most ``n_rollouts``, until it is
    decided whether the answer is lost there, and nothing after the pit is rolled out.

    ``race``: pairs of next steps for `siblings`. From the first step of a wrong answer on, ``n_rollouts`` from each
    prefix, up to the first from which none is right. Where not all that is known of the next steps is right, they
    race: at most ``n_race`` more rollouts, from the ends of the best and the worst so far, until these differ by more
    than ``gap`` with the posterior chance ``gap_confidence``.

    ``sequential`` calls an answer lost where Q < ``threshold``. That is decided when its posterior chance (Jeffreys'
    prior) is at least ``confidence`` or at most 1 - ``confidence``, else by the share of right rollouts when
    ``n_rollouts`` are made.
    """

    kind: str = "exhaustive"
    n_rollouts: int = 8
    threshold: float = 0.05
    confidence: float = 0.9
    gap: float = 0.3
    gap_confidence: float = 0.98
    n_race: int = 64

    def settings(self) -> dict[str, object]:
        """What a run's manifest holds of it: what only ``race`` reads is not there for the others, whose runs are
        older."""
        return {name: value for name, value in asdict(self).items() if self.kind == "race" or name not in RACE_ONLY}

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
#: ``next_steps(prefix, continuations)``: of each continuation of a prefix its first step, and what it shares with
#: others that are the same step; None where the step ends the response, so that nothing can be rolled out after it.
NextSteps = Callable[[Prefix, Sequence[Sequence[int]]], Awaitable[list[tuple[Prefix, Hashable] | None]]]


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
    answers: Sequence[Answer], budget: Budget, roll_out: RollOut, next_steps: NextSteps | None = None
) -> tuple[dict[Prefix, list[Draw]], list[int | None]]:
    """Roll out what ``budget`` asks for the answers to one problem.

    Returns the draws by prefix, in the order of the answers and short to long, and the first pit of each answer where
    the budget decides one: a step, or None. A correct answer has no pit, and only ``exhaustive`` rolls it out. The
    ends of steps that raced come after the prefixes of the answers. ``next_steps`` is for ``race`` alone.
    """
    draws = _Draws(roll_out)
    pits: list[int | None] = [None] * len(answers)
    if budget.kind == "exhaustive":
        prefixes = dict.fromkeys(prefix for answer in answers for prefix in answer.prefixes())
        await asyncio.gather(*(draws.first(budget.n_rollouts, prefix) for prefix in prefixes))
    elif budget.kind == "race":
        assert next_steps is not None
        await _race(answers, budget, draws, next_steps)
    else:

        async def pit(answer: Answer) -> int | None:
            return None if answer.correct else await _first_lost(answer, budget, draws)

        pits = list(await asyncio.gather(*map(pit, answers)))
    own = [prefix for answer in answers for prefix in answer.prefixes() if prefix in draws.made]
    order = dict.fromkeys([*own, *sorted(draws.made)])
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


async def _race(answers: Sequence[Answer], budget: Budget, draws: _Draws, next_steps: NextSteps) -> None:
    """Draw from the prefixes of wrong answers, up to the first from which no draw is right, and race the next steps
    from those before it."""

    async def walk(answer: Answer) -> list[Prefix]:
        prefixes = answer.prefixes()
        for step, prefix in enumerate(prefixes):
            if not await draws.first(budget.n_rollouts, prefix):
                return prefixes[: step + 1]
        return prefixes

    wrong = [answer for answer in answers if not answer.correct]
    walks = await asyncio.gather(*map(walk, wrong))
    walked = {prefix for prefixes in walks for prefix in prefixes}
    after: dict[Prefix, set[Prefix]] = {}  # what the answers themselves go on with, whatever their order
    for answer, prefixes in zip(wrong, walks, strict=True):
        for prefix in prefixes:
            after.setdefault(prefix, set()).add(tuple(answer.token_ids[len(prefix) :]))
    raced = [prefix for prefix in after if await draws.first(budget.n_rollouts, prefix)]
    await asyncio.gather(
        *(_race_from(prefix, sorted(after[prefix]), walked, budget, draws, next_steps) for prefix in raced)
    )


async def _race_from(
    prefix: Prefix,
    answers: list[Prefix],
    walked: set[Prefix],
    budget: Budget,
    draws: _Draws,
    next_steps: NextSteps,
) -> None:
    """Race the next steps that the first draws from ``prefix`` took, and the ``answers`` that go on from it."""
    first = draws.made[prefix][: budget.n_rollouts]
    taken = await next_steps(prefix, [draw.token_ids for draw in first] + [list(rest) for rest in answers])
    ends: dict[Hashable, Prefix] = {}
    begun: dict[Hashable, Counts] = {}
    for one, draw in itertools.zip_longest(taken, first):
        if one is not None:
            step, key = one
            right, count = begun.get(key, (0, 0))
            begun[key] = (right + (draw is not None and draw.outcome == CORRECT), count + (draw is not None))
            # Of the wordings of a step the one that is rolled out already, else the first.
            if key not in ends or (ends[key] not in walked and prefix + step in walked):
                ends[key] = prefix + step
    if len(ends) < 2:
        return
    places = list(ends.values())
    made = [budget.n_rollouts if place in walked else 0 for place in places]
    known = [draw.outcome == CORRECT for draw in first]
    for place, count in zip(places, made, strict=True):
        known += [draw.outcome == CORRECT for draw in draws.made.get(place, [])[:count]]
    if all(known):
        return

    async def look(candidate: int, count: int) -> int:
        return await draws.first(count, places[candidate])

    await race(list(begun.values()), made, look, budget.n_race, budget.gap, budget.gap_confidence)
