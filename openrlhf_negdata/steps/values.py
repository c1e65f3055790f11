"""From rollout counts to values, advantages and the first pit of an answer (Setlur et al. 2024, section 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from openrlhf_negdata.records import CORRECT, Rollout, StepValues
from openrlhf_negdata.steps import estimates


@dataclass(frozen=True)
class Estimator:
    """Which Q, and which step is the first pit.

    Q is that of the policy's best of ``best_of`` rollouts; 1 is the policy itself, 5 the paper's. ``biased``: by the
    form that needs fewer rollouts than that (``estimates.best_of``).

    ``pit`` is one of

    - ``lowest_q``: the first step with the lowest Q after it (Algorithm 1). After the last step of a wrong answer Q
      is 0, so that is the pit unless an earlier estimate is exactly 0.
    - ``lowest_advantage``: the first step with the least advantage (the same authors' restatement).
    - ``zero_q``: the first step after which no rollout is right (Self-Explore).
    - ``posterior``: the first step whose posterior chance to have lost more than ``min_drop`` is at least
      ``confidence``; there may be none.
    """

    pit: str = "lowest_q"
    best_of: int = 1
    biased: bool = False
    min_drop: float = 0.0
    confidence: float = 0.9

    def q(self, values: StepValues, outcome: str) -> list[float]:
        """Q before the first step, then after each step: ``len(values.step_ends) + 1`` numbers in [0, 1], NaN where
        no rollouts were made.

        The value after the last step is the outcome itself: a terminal step is not rolled out.
        """
        counts = zip(values.correct, values.count, strict=True)
        before = [estimates.best_of(c, n, self.best_of, self.biased) if n else math.nan for c, n in counts]
        return [*before, 1.0 if outcome == CORRECT else 0.0]

    def first_pit(self, values: StepValues, outcome: str) -> int | None:
        """The step that lost a wrong answer, None if there is none. Steps of unknown value are passed over.

        Where the budget of the rollouts was spent on finding it (``values.pit``), that is the one.
        """
        if values.pit is not None:
            return values.pit
        if self.pit == "posterior":
            return self._posterior_pit(values, outcome)
        q = self.q(values, outcome)
        scores = advantages(q) if self.pit == "lowest_advantage" else q[1:]
        if self.pit == "zero_q":
            return next((step for step, score in enumerate(scores) if score == 0), None)
        known = [math.inf if math.isnan(score) else score for score in scores]
        return known.index(min(known))

    def _posterior_pit(self, values: StepValues, outcome: str) -> int | None:
        counts = list(zip(values.correct, values.count, strict=True))
        ends: list[tuple[int, int] | float] = [*counts[1:], 1.0 if outcome == CORRECT else 0.0]
        for step, (before, after) in enumerate(zip(counts, ends, strict=True)):
            known = before[1] and (not isinstance(after, tuple) or after[1])
            if known and estimates.chance_below(before, after, self.min_drop) >= self.confidence:
                return step
        return None


def advantages(q: Sequence[float]) -> list[float]:
    """A_i = Q(prefix through step i) - Q(prefix through step i-1), equation 3; one number a step."""
    return [after - before for before, after in zip(q, q[1:])]  # noqa: B905 - the lengths differ by one


def halves(
    traces: Mapping[tuple[str, int], Sequence[int]], values: Iterable[StepValues], rollouts: Iterable[Rollout]
) -> Iterator[tuple[StepValues, StepValues]]:
    """Every answer's values from the even draws of each prefix, and from the odd ones.

    A pit is where an estimate is low, so the estimate that chose it flatters it. Chosen on one half and read off the
    other, it does not. ``traces``: token ids by (problem, sample).
    """
    right: dict[tuple[str, tuple[int, ...]], list[bool]] = {}
    for rollout in rollouts:
        right.setdefault((rollout.problem, tuple(rollout.prefix_ids)), []).append(rollout.outcome == CORRECT)
    for value in values:
        ids = traces[value.problem, value.sample]
        made = [right.get((value.problem, tuple(ids[:start])), []) for start in [0, *value.step_ends[:-1]]]
        even, odd = (
            StepValues(
                value.problem,
                value.sample,
                value.step_ends,
                [sum(draws[half::2]) for draws in made],
                [len(draws[half::2]) for draws in made],
                value.pit,
            )
            for half in (0, 1)
        )
        yield even, odd
