"""The arm ``dpo``: naive pairs, any correct answer with any wrong answer of the same problem (Rafailov et al.
2023)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from openrlhf_negdata.datasets.rows import Account, Answered, Arm, Row, distinct, drawn, pair_row
from openrlhf_negdata.rollouts.engines import content_seed
from openrlhf_negdata.rollouts.store import Trace


@dataclass
class Dpo(Arm):
    """A pair for each of up to ``per_problem`` distinct wrong answers (-1: all), with a correct answer drawn at
    random."""

    per_problem: int = -1
    seed: int = 0

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        right, wrong = distinct(known, account)
        if not right or not wrong:
            account.drop("problem_all_wrong" if wrong else "problem_all_correct", len(right + wrong))
            return
        pairs = self.pairs(known, right, wrong)
        used = {trace.sample for pair in pairs for trace in pair}
        account.keep(len(used))
        account.drop("not_drawn", len(right + wrong) - len(used))
        for chosen, rejected in pairs:
            yield pair_row(known, chosen, rejected)

    def pairs(self, known: Answered, right: list[Trace], wrong: list[Trace]) -> list[tuple[Trace, Trace]]:
        rng = random.Random(content_seed(self.seed, known.problem.id))
        rejected = drawn(wrong, self.per_problem, rng)
        return [(rng.choice(right), trace) for trace in rejected]
