"""The arm ``theorem``: from one prefix, two sampled next steps, the label drawn by their values: that of value a is
preferred to that of value b with chance sigmoid(a - b). Pairs drawn so are the premise of Theorem 6.1 of Setlur et al.
2024: for them DPO has the optimum of advantage-weighted training."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from openrlhf_negdata.datasets.next_steps import ByPrefix, Ids, OfNextSteps
from openrlhf_negdata.datasets.rows import Answered, Row, ids_pair_row, no_pair
from openrlhf_negdata.records import content_seed


@dataclass
class Theorem(OfNextSteps):
    """A pair a prefix: the first steps of two of its rollouts, drawn by ``seed``, both steps alone.

    Their values are taken for their advantages, since what they differ by is the same. Two equal steps teach nothing
    and are no pair.
    """

    def pair(self, known: Answered, prefix: Ids, rollouts: ByPrefix) -> Row | str:
        rng = random.Random(content_seed(self.seed, "theorem", known.problem.id, prefix))
        taken = [step for one in rollouts[prefix] if (step := self.begun(prefix, one)) is not None]
        if len(taken) < 2:
            return "too_few_rollouts"
        pair = rng.sample(taken, 2)
        steps = self.steps_of_rollouts(prefix, rollouts)
        if min(steps[step].count for step in pair) < self.min_rollouts:
            return "too_few_rollouts"
        if reason := no_pair(*pair):
            return reason if reason == "equal" else "one_begins_the_other"
        q = {step: steps[step].q(self.estimator) for step in pair}
        first, second = pair
        wins = rng.random() < 1 / (1 + math.exp(q[second] - q[first]))
        chosen, rejected = (first, second) if wins else (second, first)
        figures = {"chosen_from": "rollouts", "rejected_from": "rollouts", "shared_tokens": len(prefix)}
        figures |= {"q_chosen": round(q[chosen], 4), "q_rejected": round(q[rejected], 4)}
        return ids_pair_row(known, prefix, chosen, rejected, **figures)


arm = Theorem
