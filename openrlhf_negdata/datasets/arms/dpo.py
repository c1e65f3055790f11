"""The arm ``dpo``: naive pairs, any correct answer with any wrong answer of the same problem (Rafailov et al.
2023)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from openrlhf_negdata.datasets.rows import Account, Answered, Limited, Row, distinct, drawn, no_pair, pair_row
from openrlhf_negdata.records import Trace, content_seed


@dataclass
class Dpo(Limited):
    """A pair for each of up to ``per_problem`` distinct wrong answers (-1: all), with a correct answer drawn at
    random."""

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        right, wrong = distinct(known, account)
        if not right or not wrong:
            account.drop("problem_all_wrong" if wrong else "problem_all_correct", len(right + wrong))
            return
        wrong, all_wrong = [], wrong
        for trace in all_wrong:
            reasons = [no_pair(other.token_ids, trace.token_ids) for other in right]
            if None in reasons:
                wrong.append(trace)
            else:
                account.drop(str(reasons[0]))
        pairs = self.pairs(known, right, wrong)
        used = {trace.sample for pair in pairs for trace in pair}
        account.keep(len(used))
        account.drop("not_drawn", len(right + wrong) - len(used))
        for chosen, rejected in pairs:
            yield pair_row(known, chosen, rejected)

    def pairs(self, known: Answered, right: list[Trace], wrong: list[Trace]) -> list[tuple[Trace, Trace]]:
        rng = random.Random(content_seed(self.seed, known.problem.id))
        rejected = drawn(wrong, self.per_problem, rng)
        return [(rng.choice(partners(right, trace)), trace) for trace in rejected]


def partners(right: list[Trace], wrong: Trace) -> list[Trace]:
    """The right answers that make a pair with a wrong one."""
    return [other for other in right if no_pair(other.token_ids, wrong.token_ids) is None]


arm = Dpo
