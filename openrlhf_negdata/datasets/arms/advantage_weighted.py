"""The arm ``advantage-weighted``: answers with a weight a step, exp(A / beta), for advantage-weighted training (Setlur
et al. 2024, equation 4); or A / beta itself, the policy gradient's, which is negative where a step lost value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from openrlhf_negdata.datasets.rows import Account, Answered, Limited, Row, ValuedArm, drawn_in_order, sft_row
from openrlhf_negdata.flags import flag
from openrlhf_negdata.records import StepValues, Trace
from openrlhf_negdata.steps.credit import credit, spread

NORMALISE = ("none", "answer", "set")
WEIGHTS = ("exp", "advantage")


@dataclass
class AdvantageWeighted(Limited, ValuedArm):
    """Every valued answer, right or wrong, up to ``per_problem`` a problem (-1: all), drawn by ``seed``.

    A step weighs ``min(exp(A / beta), max_weight)``; with ``weights`` of "advantage", ``A / beta`` cut to the range of
    ``-max_weight`` to ``max_weight``. ``normalise``: weights are then divided by the mean of their sizes over the
    tokens of the answer, or of the whole set, so that it is 1; ``none`` leaves them.
    """

    beta: float = flag(1.0, "a step weighs exp(A / beta)", above=0)
    max_weight: float = flag(20.0, "a step weighs no more than this, nor less than minus this", above=0)
    normalise: str = flag("none", "what the weights have a mean of 1 over, by tokens", choices=NORMALISE)
    weights: str = flag("exp", "or a step weighs A / beta, negative where it lost value", choices=WEIGHTS)
    mean: float = 1.0

    def prepare(self, problems: Iterable[Answered]) -> None:
        if self.normalise == "set":
            total = tokens = 0.0
            for known in problems:
                for trace, values in self._taken(known):
                    total += _weighed(self._weights(trace, values), values.step_ends)
                    tokens += values.step_ends[-1]
            self.mean = total / tokens if tokens else 1.0

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        taken = self._taken(known)
        account.cap(len(taken), len(known.values))
        for trace, values in taken:
            weights = self._weights(trace, values)
            mean = _weighed(weights, values.step_ends) / values.step_ends[-1]
            over = {"none": 1.0, "answer": mean, "set": self.mean}[self.normalise] or 1.0  # all weights may be 0
            yield sft_row(
                known,
                trace,
                outcome=trace.outcome,
                step_ends=values.step_ends,
                advantages=[round(advantage, 4) for advantage in credit(values, trace.outcome, self.estimator)],
                weights=[round(weight / over, 6) for weight in weights],
            )

    def _taken(self, known: Answered) -> list[tuple[Trace, StepValues]]:
        return drawn_in_order(list(known.valued()), self.per_problem, known.rng(self.seed))

    def _weights(self, trace: Trace, values: StepValues) -> list[float]:
        return credit(values, trace.outcome, self.estimator, self.weights, self.beta, self.max_weight)


def _weighed(weights: list[float], step_ends: list[int]) -> float:
    """The sum of the weights' sizes over tokens."""
    return float(abs(spread(weights, step_ends)).sum())


arm = AdvantageWeighted
