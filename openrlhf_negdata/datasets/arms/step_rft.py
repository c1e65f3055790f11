"""The arm ``step-rft``: right and wrong answers without those whose least step advantage is lowest (advantage-filtered
RFT, Setlur et al. 2024, fig 11)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from openrlhf_negdata.datasets.rows import Account, Answered, Origin, Row, ValuedArm, sft_row
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.flags import flag
from openrlhf_negdata.records import CORRECT, StepValues, Trace, content_seed
from openrlhf_negdata.steps.credit import credit


@dataclass
class StepRft(ValuedArm):
    """Of all valued answers, ``floor(drop_share x N)`` are dropped: those with the least step advantage, equal ones in
    an order that ``seed`` decides. ``correct_only``: wrong answers do not come into it. ``with_solutions``: the
    teacher's solutions do, where they were valued."""

    drop_share: float = flag(0.5, "share of the answers that is dropped", least=0, most=1)
    correct_only: bool = flag(False, "right answers alone")
    with_solutions: bool = flag(
        False, "the teacher's solutions too, where `negdata value --value.solutions` valued them"
    )
    cut: tuple[float, int] = (-math.inf, 0)

    def begin(self, origin: Origin) -> None:
        super().begin(origin)
        assert origin.valuing is not None
        if self.with_solutions and not origin.valuing.solutions:
            raise UserError(
                f"--with_solutions: {origin.name} has no values of solutions, `negdata value --value.solutions` "
                "makes them"
            )

    def units(self, known: Answered) -> int:
        return len(self._valued(known))

    def prepare(self, problems: Iterable[Answered]) -> None:
        ranks = sorted(
            self._rank(trace, values)
            for known in problems
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
        if self.with_solutions and known.teacher and known.teacher_values:
            valued.append((known.teacher, known.teacher_values))
        return valued

    def _rank(self, trace: Trace, values: StepValues) -> tuple[float, int]:
        least = min(credit(values, trace.outcome, self.estimator))
        return least, content_seed(self.seed, "step-rft", trace.problem, trace.sample)


arm = StepRft
