"""The arm ``dpo-edit-distance``: of a problem's correct and wrong answers, the pairs that differ most (Pal et al.
2024)."""

from __future__ import annotations

from openrlhf_negdata.datasets.arms.dpo import Dpo, partners
from openrlhf_negdata.datasets.arms.rft import distance
from openrlhf_negdata.datasets.rows import Answered
from openrlhf_negdata.records import Trace


class DpoEditDistance(Dpo):
    """The ``per_problem`` pairs with the highest edit distance, in characters as a share of their mean length; -1:
    each wrong answer with the correct one farthest from it. No wrong answer is in two pairs."""

    def pairs(self, known: Answered, right: list[Trace], wrong: list[Trace]) -> list[tuple[Trace, Trace]]:
        best = [
            max(((distance(chosen, rejected), chosen, rejected) for chosen in partners(right, rejected)), key=_first)
            for rejected in wrong
        ]
        best.sort(key=_first, reverse=True)
        return [
            (chosen, rejected) for _, chosen, rejected in best[: self.per_problem if self.per_problem >= 0 else None]
        ]


def _first(one: tuple[float, Trace, Trace]) -> float:
    return one[0]


arm = DpoEditDistance
