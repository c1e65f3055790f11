"""A race of next steps from one prefix: rollouts go to the best and the worst so far, until the two are told apart.

Best and worst are those by the means of Jeffreys' posteriors. A step that leads by luck is rolled out and falls
behind, and another takes its place. Two known rules were measured beside it, successive elimination and top-two
Thompson sampling: they needed more tokens for fewer pairs (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from openrlhf_negdata.steps.estimates import chance_below

#: (right, made) rollouts of a candidate.
Counts = tuple[int, int]
#: Rollouts without which a candidate decides nothing: of many with fewer, some are all right or all wrong by luck.
LEAST = 8
Name = TypeVar("Name", bound=Hashable)


def widest(values: Mapping[Name, Counts | float]) -> tuple[Name, Name]:
    """The best and the worst of ``values``, by the means of their posteriors. A value that is known is a number."""
    means = {name: (v[0] + 0.5) / (v[1] + 1) if isinstance(v, tuple) else v for name, v in values.items()}
    return max(means, key=means.__getitem__), min(means, key=means.__getitem__)


def apart(values: Mapping[Name, Counts | float], gap: float) -> float:
    """The posterior chance that the best and the worst of ``values`` differ by more than ``gap``; 0 if none do."""
    if len(values) < 2:
        return 0.0
    best, worst = widest(values)
    return chance_below(values[best], values[worst], gap)


async def race(
    begun: Sequence[Counts],
    made: Sequence[int],
    look: Callable[[int, int], Awaitable[int]],
    most: int,
    gap: float,
    confidence: float,
) -> None:
    """Roll out candidates from their ends until two differ by more than ``gap`` with posterior chance ``confidence``,
    or until ``most`` rollouts are made. Each time two are made: of the best and the worst by the one that has fewer,
    or one by each.

    ``begun``: of each candidate, the draws from the prefix that began with it; ``made``: how many rollouts there are
    from its end already; ``look(candidate, count)`` makes the first ``count`` and returns how many are right.
    """
    counts = [
        (c + (await look(candidate, end) if end else 0), n + end)
        for candidate, ((c, n), end) in enumerate(zip(begun, made, strict=True))
    ]
    for _ in range(most // 2):
        told = {candidate: some for candidate, some in enumerate(counts) if some[1] >= LEAST}
        if apart(told, gap) >= confidence:
            return
        best, worst = widest(dict(enumerate(counts)))
        fewer = min(counts[best][1], counts[worst][1])
        behind = [candidate for candidate in (best, worst) if counts[candidate][1] == fewer]
        for candidate in behind:
            (c, n), count = begun[candidate], counts[candidate][1] + 2 // len(behind)
            counts[candidate] = (c + await look(candidate, count - n), count)
