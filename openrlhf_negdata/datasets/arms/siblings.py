"""The arm ``siblings``: from one prefix, the best of the next steps that were sampled against the worst.

It is inspired by Theorem 6.1 of Setlur et al. 2024, which compares continuations of one prefix by their advantage, but
does not meet its premise: the theorem's two steps are drawn independently and labelled by chance, those of this arm
are the best and the worst. So its loss has no finite optimum, and training is stopped before it (docs/theorem.md).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from openrlhf_negdata.datasets.next_steps import ByPrefix, Ids, OfNextSteps, add_answers, joined
from openrlhf_negdata.datasets.rows import Answered, Origin, Row, ids_pair_row, no_pair
from openrlhf_negdata.flags import flag
from openrlhf_negdata.records import content_seed
from openrlhf_negdata.steps.race import LEAST, apart, widest


@dataclass
class Siblings(OfNextSteps):
    """From each prefix, the best and the worst next step whose values differ by ``min_gap`` or more.

    Candidates are the steps that rollouts took and those of the valued answers. Chosen: a right continuation through
    the best step; rejected: the worst step. ``weigh_pairs``: a pair weighs what the values differ by. Steps that the
    task calls the same are one.

    Of a race, which leaves steps with few rollouts, best and worst are what the race compares, and a pair is made
    where their values differ by more than ``min_gap`` with the posterior chance that the race was to reach, from as
    many rollouts as it asks for.
    """

    min_gap: float = flag(0.3, "least difference in value")
    weigh_pairs: bool = flag(False, "a pair weighs in the loss what its two sides differ by in value")
    prefixes: int = 0
    single: int = 0
    #: Of a race, the posterior chance that a pair must reach.
    confidence: float | None = None

    budgets: ClassVar[tuple[str, ...]] = ("exhaustive", "race")

    def begin(self, origin: Origin) -> None:
        super().begin(origin)
        assert origin.valuing is not None
        budget = origin.valuing.budget
        if budget.kind == "race":
            self.confidence, self.min_rollouts = budget.gap_confidence, max(self.min_rollouts, LEAST)

    def pair(self, known: Answered, prefix: Ids, rollouts: ByPrefix) -> Row | str:
        self.prefixes += 1
        steps = self.steps_of_rollouts(prefix, rollouts)
        add_answers(steps, known, prefix, rollouts)
        steps = joined(steps, self.step_key)
        valued = {
            taken: step for taken, step in steps.items() if step.outcome is not None or step.count >= self.min_rollouts
        }
        if len(valued) < 2:
            self.single += 1
            return "one_step" if len(steps) < 2 else "too_few_rollouts"
        q = {taken: step.q(self.estimator) for taken, step in valued.items()}
        best, worst = max(q, key=q.__getitem__), min(q, key=q.__getitem__)
        if self.confidence is not None:
            values = {taken: step.known() for taken, step in valued.items()}
            best, worst = widest(values)
            if apart(values, self.min_gap) < self.confidence:
                return "undecided"
        if q[best] - q[worst] < self.min_gap:
            return "gap_too_small"
        reasons = [no_pair(ids, worst) for ids, _ in valued[best].right]
        right = [one for one, reason in zip(valued[best].right, reasons, strict=True) if reason is None]
        if not right:
            return str(reasons[0]) if reasons else "no_right_continuation"
        rng = random.Random(content_seed(self.seed, "siblings", known.problem.id, prefix))
        chosen, chosen_from = rng.choice(right)
        figures = {"chosen_from": chosen_from, "rejected_from": valued[worst].source, "shared_tokens": len(prefix)}
        figures |= {"q_chosen": round(q[best], 4), "q_rejected": round(q[worst], 4)}
        if self.weigh_pairs:
            figures["weight"] = round(q[best] - q[worst], 4)
        return ids_pair_row(known, prefix, chosen, worst, **figures)

    def notes(self) -> list[str]:
        if self.confidence is not None or 2 * self.single <= self.prefixes:
            return []
        return [
            f"From {self.single} of {self.prefixes} prefixes fewer than two next steps are valued: nearly every "
            "rollout takes a step of its own. shared-prefix needs no step to be taken twice."
        ]


arm = Siblings
