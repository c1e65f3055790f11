"""The arm ``step-rft``: advantage-filtered RFT (Setlur et al. 2024, fig 11). Right and wrong answers whose every step
is of high advantage are cloned: those whose least step advantage is among the lowest are dropped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from openrlhf_negdata.datasets.rows import Account, Answered, Row, ValuedArm, sft_row
from openrlhf_negdata.rollouts.engines import content_seed
from openrlhf_negdata.rollouts.store import StepValues, Trace
from openrlhf_negdata.steps.values import Estimator, advantages
from openrlhf_negdata.tasks import CORRECT


@dataclass
class StepRft(ValuedArm):
    """Of all valued answers, ``floor(drop_share x N)`` are dropped: those with the least step advantage, equal ones in
    an order that ``seed`` decides. ``correct_only``: wrong answers do not come into it. ``solutions``: the teacher's
    solutions do, where they were valued."""

    estimator: Estimator
    drop_share: float = 0.5
    correct_only: bool = False
    seed: int = 0
    solutions: bool = False
    cut: tuple[float, int] = (-math.inf, 0)

    def units(self, known: Answered) -> int:
        return len(self._valued(known))

    def prepare(self, source: Iterable[Answered]) -> None:
        ranks = sorted(
            self._rank(trace, values)
            for known in source
            for trace, values in self._valued(known)
            if trace.outcome == CORRECT or not self.correct_only
        )
        if dropped := math.floor(self.drop_share * len(ranks)):
            self.cut = ranks[dropped - 1]

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        for trace, values in self._valued(known):
            rank = self._rank(trace, values)
            if self.correct_only and trace.outcome != CORRECT:
                account.drop(str(trace.outcome))
            elif rank <= self.cut:
                account.drop("low_advantage")
            else:
                account.keep()
                yield sft_row(known, trace, outcome=trace.outcome, least_advantage=round(rank[0], 4))

    def _valued(self, known: Answered) -> list[tuple[Trace, StepValues]]:
        valued = list(known.valued())
        if self.solutions and known.teacher and known.teacher_values:
            valued.append((known.teacher, known.teacher_values))
        return valued

    def _rank(self, trace: Trace, values: StepValues) -> tuple[float, int]:
        least = min(advantages(self.estimator.q(values, str(trace.outcome))))
        return least, content_seed(self.seed, "step-rft", trace.problem, trace.sample)
