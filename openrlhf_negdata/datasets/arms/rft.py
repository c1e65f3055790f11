"""The arm ``rft``: the policy's own correct answers (rejection-sampling fine-tuning, D+)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from openrlhf_negdata.datasets.arms.sft import Sft
from openrlhf_negdata.datasets.rows import Account, Answered, Arm, Limited, Row, content, sft_row
from openrlhf_negdata.flags import flag
from openrlhf_negdata.records import CORRECT, Trace

DISTINCT = ("answers", "equations", "edit_distance", "all")
_EQUATION = re.compile(r"[-+*/×÷().,\d\s$%]*\d[-+*/×÷().,\d\s$%]*=\s*[-$]?\s*[\d.,]*\d")


@dataclass
class Rft(Limited):
    """Up to ``per_problem`` correct answers a problem (-1: all), in the order they were sampled, the ids as they were
    sampled.

    Two answers count as one by ``distinct``:

    - ``answers``: where they are equal;
    - ``equations``: where they hold the same set of equations (Self-Explore on GSM8K), or none and are equal;
    - ``edit_distance``: where the characters to edit are at most ``min_distance`` of their mean length (Self-Explore
      on MATH, 0.2);
    - ``all``: never, so that duplicates are kept.

    ``most_different``: of the first 2 x ``per_problem`` of them, keep the ``per_problem`` that differ most.
    ``with_solutions``: and the teacher's solutions.
    """

    distinct: str = flag(
        "answers",
        "two answers are one where they are equal; hold the same equations; are as near as --min_distance; or never "
        "(all)",
        choices=DISTINCT,
    )
    min_distance: float = flag(
        0.2,
        "edits of characters, as a share of the mean length",
        least=0,
        only=("--distinct edit_distance", lambda arm: arm.distinct == "edit_distance"),
    )
    most_different: bool = flag(
        False,
        "of twice --per_problem answers, keep those that differ most",
        only=("--per_problem N, 1 or more,", lambda arm: arm.per_problem > 0),
    )
    with_solutions: bool = flag(False, "the teacher's solutions too")

    def parts(self) -> list[Arm]:
        return [self, Sft()] if self.with_solutions else [self]

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        candidates: list[Trace] = []
        enough = 2 * self.per_problem if self.most_different else self.per_problem
        seen: set[object] = set()
        for trace in known.traces:
            if trace.outcome != CORRECT:
                account.drop(str(trace.outcome))
            elif self._is_known(trace, seen, candidates):
                account.drop("duplicate")
            elif 0 <= enough <= len(candidates):
                account.drop("over_per_problem")
            else:
                candidates.append(trace)
        kept = candidates
        if self.most_different and len(candidates) > self.per_problem:
            kept = most_different(candidates, self.per_problem, distance)
            account.drop("less_different", len(candidates) - len(kept))
        for trace in kept:
            account.keep()
            yield sft_row(known, trace)

    def _is_known(self, trace: Trace, seen: set[object], candidates: list[Trace]) -> bool:
        """Whether an answer like ``trace`` came before it."""
        if self.distinct == "all":
            return False
        if self.distinct == "edit_distance":
            return any(distance(trace, other) <= self.min_distance for other in candidates)
        what = (self.distinct == "equations" and equations(trace.text)) or content(trace)
        known = what in seen
        seen.add(what)
        return known


def equations(text: str) -> frozenset[str]:
    """The equations of ``text``, such as ``3*4=12``, without spaces, currency signs and separators of thousands."""
    return frozenset(re.sub(r"[\s$,%]", "", found).lstrip("+.)") for found in _EQUATION.findall(text))


def distance(a: Trace, b: Trace) -> float:
    """Characters to insert, delete or replace, as a share of the mean length of both."""
    mean = (len(a.text) + len(b.text)) / 2
    return Levenshtein.distance(a.text, b.text) / mean if mean else 0.0


def most_different(some: Sequence[Trace], count: int, how_far: Callable[[Trace, Trace], float]) -> list[Trace]:
    """``count`` of them, in their order: the first, then always the one farthest from the nearest of those taken."""
    nearest = [float("inf")] * len(some)
    taken: list[int] = []
    while len(taken) < count:
        best = max((i for i in range(len(some)) if i not in taken), key=lambda i: nearest[i])
        taken.append(best)
        nearest = [min(near, how_far(some[best], other)) for near, other in zip(nearest, some, strict=True)]
    return [some[i] for i in sorted(taken)]


arm = Rft
