"""The updates of step DPO: which pairs each is made of, and how they are spread over processes and micro-batches."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from openrlhf_negdata.datasets.tokens import Pair
from openrlhf_negdata.trainers import packing

#: What a process computes at once: the rows of a batch, and the pairs whose distinct tokens make up a row.
MicroBatch = list[list[Pair]]


class PairUpdates:
    """The updates of a run, and what one of ``ranks`` processes computes for each: some micro-batches, as many in
    every process, each of at most ``budget`` tokens.

    The pairs of a problem share their question and often much of an answer, so they stay together: an epoch shuffles
    the problems, not the pairs. An update may span two epochs; one that the last epoch leaves incomplete is not made.
    Everything is decided by ``seed``, so that an update is the same whatever came before it.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        batch_size: int,
        epochs: int,
        seed: int,
        budget: int,
        separate: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """``separate``: the two sides of each pair take two rows, with nothing shared."""
        self.pairs, self.batch_size, self.epochs, self.seed = pairs, batch_size, epochs, seed
        self.budget, self.separate, self.rank, self.ranks = budget, separate, rank, ranks
        problems: dict[Any, list[Pair]] = {}
        for pair in pairs:
            problems.setdefault(pair.problem, []).append(pair)
        self.problems = list(problems.values())

    def __len__(self) -> int:
        return len(self.pairs) * self.epochs // self.batch_size

    def after(self, done: int) -> Iterator[list[MicroBatch]]:
        """The updates but for the first ``done``."""
        epoch, skipped = divmod(done * self.batch_size, len(self.pairs))
        epochs = itertools.chain.from_iterable(self._shuffled(number) for number in range(epoch, self.epochs))
        order = itertools.islice(epochs, skipped, None)
        for _ in range(len(self) - done):
            yield self.share(list(itertools.islice(order, self.batch_size)))

    def once(self) -> Iterator[list[MicroBatch]]:
        """All pairs once, so many at a time as an update has, problem by problem: what they share is computed once."""
        pairs = list(itertools.chain.from_iterable(self.problems))
        for start in range(0, len(pairs), self.batch_size):
            yield self.share(pairs[start : start + self.batch_size])

    def share(self, pairs: Sequence[Pair]) -> list[MicroBatch]:
        """This process's micro-batches of an update of these ``pairs``."""
        groups: dict[Any, list[Pair]] = {}
        for pair in pairs:
            groups.setdefault(pair.problem, []).append(pair)
        tries = [part for group in groups.values() for part in self._fitting(group)]
        tries.sort(key=lambda trie: -trie[0])
        dealt: list[list[tuple[int, list[Pair]]]] = [[] for _ in range(self.ranks)]
        for trie in tries:
            min(dealt, key=lambda mine: sum(size for size, _ in mine)).append(trie)
        plans = [
            [
                [[pair for trie in row for pair in mine[trie][1]] for row in rows]
                for rows in packing.micro_batches([size for size, _ in mine], self.budget, self.separate)
            ]
            for mine in dealt
        ]
        plan = plans[self.rank]
        filler = [[replace(tries[-1][1][0], weight=0.0, filler=True)]]
        return plan + [filler] * (max(map(len, plans)) - len(plan))

    def _fitting(self, pairs: list[Pair]) -> list[tuple[int, list[Pair]]]:
        """The pairs in parts whose distinct tokens fit the budget, or that are one pair; and how many those are."""
        sides = [side for pair in pairs for side in pair.sequences()]
        size = 2 * max(map(len, sides)) if self.separate else len(packing.Trie.of(sides).ids)
        if len(pairs) == 1 or (size <= self.budget and not self.separate):
            return [(size, pairs)]
        middle = len(pairs) // 2
        return self._fitting(pairs[:middle]) + self._fitting(pairs[middle:])

    def _shuffled(self, epoch: int) -> list[Pair]:
        problems = list(self.problems)
        random.Random(f"{self.seed} {epoch}").shuffle(problems)
        return [pair for problem in problems for pair in problem]


def sides(model: Any, rows: MicroBatch, device: Any, separate: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and numbers of tokens of the sides of the pairs: chosen, rejected, chosen, ...; ``separate``:
    each side in a row of its own, with nothing shared."""
    sequences = [[(side, len(pair.prompt)) for pair in row for side in pair.sequences()] for row in rows]
    if separate:
        sequences = [[one] for row in sequences for one in row]
    return packing.log_probs(model, packing.pack(sequences).to(device), separate)
