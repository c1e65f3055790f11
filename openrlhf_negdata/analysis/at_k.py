"""pass@k and maj@k from n samples a problem.

A sample is a vote: ``RIGHT``, ``NONE`` where no answer was read from it, or else a number of 2 or more that equal
wrong answers share. Each estimator gives one number in [0, 1] a problem, whose mean over problems is unbiased.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb

from openrlhf_negdata.records import CORRECT, WRONG, Trace

NONE, RIGHT = 0, 1


def votes_of(answers: Sequence[Trace]) -> list[int]:
    """The votes of the graded ``answers`` to one problem. All correct ones vote alike, however they write it."""
    numbers: dict[str, int] = {}
    votes = []
    for one in answers:
        if one.outcome == CORRECT:
            votes.append(RIGHT)
        elif one.outcome == WRONG and one.answer is not None:
            votes.append(numbers.setdefault(one.answer.strip(), RIGHT + 1 + len(numbers)))
        else:
            votes.append(NONE)  # truncated, no answer, or one that the grader gave up on
    return votes


def sizes(samples: int) -> list[int]:
    """The k that are told of so many samples: powers of two, and all."""
    return sorted({2**power for power in range(samples.bit_length())} | {samples})


def pass_at(votes: Sequence[int], k: int) -> float:
    """The chance that one of k samples is right, ``1 - C(n - c, k) / C(n, k)`` with c of the n samples right (Chen et
    al. 2021, https://arxiv.org/abs/2107.03374, equation 1)."""
    n, right = len(votes), votes.count(RIGHT)
    return 1 - comb(n - right, k) / comb(n, k)


def majority_at(votes: Sequence[int], k: int) -> float:
    """The chance that the answer which most of k samples give is right (Wang et al. 2022, self-consistency), ties
    drawn: the mean over the ``n // k`` groups of k in the order drawn. No votes are a wrong answer."""
    groups = [votes[begin : begin + k] for begin in range(0, len(votes) - k + 1, k)]
    return sum(map(_right_by_majority, groups)) / len(groups)


def _right_by_majority(votes: Sequence[int]) -> float:
    counts = Counter(vote for vote in votes if vote != NONE)
    most = [vote for vote, count in counts.items() if count == max(counts.values())]
    return (RIGHT in most) / max(1, len(most))
