"""A race of the next steps from one prefix: rollouts go to those that may be the best or the worst, until two are told
apart.

Candidates are drawn for more rollouts by Thompson sampling from Jeffreys' posteriors (Thompson 1933): whichever is the
best, and whichever the worst, in a draw from the posteriors. Successive elimination was measured beside it and needed
more tokens for as many pairs (docs/performance.md).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from openrlhf_negdata.steps.estimates import chance_below

#: (right, made) rollouts of a candidate.
Counts = tuple[int, int]
#: Rollouts without which a candidate decides nothing: what `siblings` asks of a step.
LEAST = 4
#: Draws from the posteriors between two looks at the counts: each asks for two rollouts.
DRAWS = 4
Name = TypeVar("Name", bound=Hashable)


def widest(values: Mapping[Name, Counts | float], gap: float) -> tuple[Name, Name, float]:
    """The best and the worst of ``values`` by the means of their posteriors, and the posterior chance that they differ
    by more than ``gap``. A value that is known is a number."""
    means = {name: (v[0] + 0.5) / (v[1] + 1) if isinstance(v, tuple) else v for name, v in values.items()}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return best, worst, chance_below(values[best], values[worst], gap)


async def race(
    begun: Sequence[Counts],
    made: Sequence[int],
    look: Callable[[int, int], Awaitable[int]],
    most: int,
    gap: float,
    confidence: float,
    seed: int,
) -> None:
    """Roll out candidates from their ends until two differ by more than ``gap`` with posterior chance ``confidence``,
    or until ``most`` rollouts are made.

    ``begun``: of each candidate, the draws from the prefix that began with it; ``made``: how many rollouts there are
    from its end already; ``look(candidate, count)`` makes the first ``count`` and returns how many are right. Nothing
    but these and ``seed`` decides what is asked for.
    """
    rng, ends = random.Random(seed), list(made)
    right = [await look(candidate, count) if count else 0 for candidate, count in enumerate(ends)]
    spent = 0
    while True:
        counts = [(c + r, n + end) for (c, n), r, end in zip(begun, right, ends, strict=True)]
        told: dict[int, Counts | float] = {i: some for i, some in enumerate(counts) if some[1] >= LEAST}
        if len(told) > 1 and widest(told, gap)[2] >= confidence:
            return
        more = Counter[int]()
        for _ in range(min(DRAWS, (most - spent) // 2)):
            q = [rng.betavariate(c + 0.5, n - c + 0.5) for c, n in counts]
            more.update((q.index(max(q)), q.index(min(q))))
        if not more:
            return
        spent += more.total()
        for candidate, count in sorted(more.items()):
            ends[candidate] += count
            right[candidate] = await look(candidate, ends[candidate])
