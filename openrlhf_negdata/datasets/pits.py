"""Pairs that blame the first pit of an answer, the step that lost it (Setlur et al. 2024, section 4): what the arms
``algorithm1`` and ``shared-prefix`` have in common."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from openrlhf_negdata.datasets.rows import (
    Account,
    Answered,
    Limited,
    Origin,
    Row,
    ValuedArm,
    capped,
    ids_pair_row,
    made_for,
    no_pair,
    source,
)
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.flags import flag, flags_of
from openrlhf_negdata.records import CORRECT, StepValues, Trace, content_seed
from openrlhf_negdata.steps.credit import credit
from openrlhf_negdata.steps.rules import PITS
from openrlhf_negdata.steps.values import Estimator, halves

#: What a pair may choose: its token ids and where they are from.
Side = tuple[Sequence[int], str]


@dataclass
class AtPits(Limited, ValuedArm):
    """Pairs at the first pits that ``estimator`` finds. A pit whose advantage is above ``-min_drop`` blames nobody:
    dropped, unless the rollouts were spent on finding it alone.

    ``positives``: correct answers have pits too, their spurious steps (fig 10). ``weigh_pairs``: a pair weighs what
    its pit lost.
    """

    pit: str | None = flag(
        None,
        "which step of a wrong answer lost it (lowest_q, unless the rollouts were spent on finding one alone: then "
        "that one)",
        choices=PITS,
    )
    confidence: float = flag(
        0.9,
        "least chance that the step lost it",
        above=0.5,
        below=1,
        only=("--pit posterior", lambda arm: arm.pit == "posterior"),
    )
    min_drop: float = flag(0.0, "least loss of value a pit is blamed for")
    positives: bool = flag(False, "pits of right answers too")
    weigh_pairs: bool = flag(False, "a pair weighs in the loss what its two sides differ by in value")
    halved: list[tuple[float, float]] = field(default_factory=list)

    tables: ClassVar[tuple[str, ...]] = ("traces", "values", "rollouts")
    budgets: ClassVar[tuple[str, ...]] = ("exhaustive", "sequential")
    #: Decides, with the seed, what is drawn.
    stream: ClassVar[str]

    @property
    def estimator(self) -> Estimator:
        pit = self.pit or "lowest_q"
        return Estimator(pit, self.best_of, self.best_of_biased, self.min_drop, self.confidence)

    def begin(self, origin: Origin) -> None:
        assert origin.valuing is not None
        budget = origin.valuing.budget
        if budget.kind == "sequential":
            for name in ("pit", "best_of", "min_drop", "positives", "weigh_pairs"):
                if getattr(self, name) != flags_of(self)[name].default:
                    raise UserError(f"--{name}: {origin.name} {made_for(budget)}")
        super().begin(origin)
        self.pit = self.pit or ("lowest_q" if budget.kind == "exhaustive" else budget.kind)

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        self.halved += _split_sample(known, self.estimator, self.positives)
        pairs = (self._at_pit(known, trace, values) for trace, values in known.valued())
        yield from capped(pairs, self.per_problem, known.rng(self.seed, "per_problem"), account)

    def _at_pit(self, known: Answered, trace: Trace, values: StepValues) -> Row | str:
        """The pair of a valued answer, or why there is none."""
        if trace.outcome == CORRECT and not self.positives:
            return "correct"
        q = self.estimator.q(values, str(trace.outcome))
        pit = self.estimator.first_pit(values, str(trace.outcome))
        if pit is None:
            return "no_pit"
        drop = q[pit] - q[pit + 1]
        if values.pit is None and (not drop > 0 or drop < self.min_drop):
            return "pit_drop_too_small"
        edges = [0, *values.step_ends]
        found = self.sides(known, trace, edges[pit], edges[pit + 1])
        if isinstance(found, str):
            return found
        shared, rejected, others = found
        reasons = [no_pair(ids, rejected) for ids, _ in others]
        if None not in reasons:
            return str(reasons[0])
        rng = random.Random(content_seed(self.seed, self.stream, trace.problem, trace.sample))
        chosen, chosen_from = rng.choice([one for one, reason in zip(others, reasons, strict=True) if reason is None])
        figures = {"chosen_from": chosen_from, "rejected_from": source(trace), "pit": pit, "steps": len(edges) - 1}
        figures |= {"q_before": _rounded(q[pit]), "q_rejected": _rounded(q[pit + 1])}
        if self.weigh_pairs:
            figures["weight"] = round(drop, 4)
        return ids_pair_row(known, shared, chosen, rejected, **figures)

    def sides(
        self, known: Answered, trace: Trace, start: int, end: int
    ) -> tuple[list[int], list[int], list[Side]] | str:
        """What both sides share, the rejected continuation, and those that may be chosen, one or more; or why there is
        no pair. The pit is ``trace.token_ids[start:end]``."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        if not self.halved:
            return []
        chose, other = (sum(column) / len(self.halved) for column in zip(*self.halved, strict=True))
        return [
            f"Pits chosen by half of the rollouts lose {chose:.3f} of Q by that half and {other:.3f} by the other "
            f"({len(self.halved)} answers): what chose a pit flatters it, so take the second figure."
        ]


def _rounded(q: float) -> float | None:
    return None if math.isnan(q) else round(q, 4)


def _split_sample(known: Answered, estimator: Estimator, positives: bool) -> Iterator[tuple[float, float]]:
    """How much value a pit loses: by the half of the rollouts that chose it, and by the other."""
    ids = {(trace.problem, trace.sample): trace.token_ids or [] for trace in known.traces}
    outcomes = {trace.sample: str(trace.outcome) for trace in known.traces}
    for even, odd in halves(ids, known.values, known.rollouts):
        outcome = outcomes[even.sample]
        if (outcome == CORRECT and not positives) or min(*even.count, *odd.count) < estimator.best_of:
            continue
        pit = estimator.first_pit(even, outcome)
        if pit is not None:
            chose, other = (-credit(half, outcome, estimator)[pit] for half in (even, odd))
            yield chose, other
