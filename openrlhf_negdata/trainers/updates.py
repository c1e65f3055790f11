"""The updates of a run: which rows or pairs each is made of, and how they are spread over processes and micro-batches.

An update holds ``batch_size`` of them, whatever they are cut into: the loss of an update is a mean over all of it, so
micro-batches and processes decide memory and speed alone.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from openrlhf_negdata.trainers import packing
from openrlhf_negdata.trainers.tokens import Pair

Item = TypeVar("Item")
#: What a process computes at once of pairs: the rows of a batch, and the pairs whose distinct tokens make up a row.
MicroBatch = list[list[Pair]]


class Part(NamedTuple):
    """Pairs of a problem that are computed together, and the number of their distinct tokens."""

    size: int
    pairs: list[Pair]


class Updates(Generic[Item]):
    """The updates of a run of ``epochs`` over ``items``, and what one of ``ranks`` processes computes for each.

    An update may span two epochs; one that the last epoch leaves incomplete is not made. Everything is decided by
    ``seed``, so that an update is the same whatever came before it.
    """

    def __init__(
        self, items: Sequence[Item], batch_size: int, epochs: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.items, self.batch_size, self.epochs, self.seed = items, batch_size, epochs, seed
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return len(self.items) * self.epochs // self.batch_size

    def after(self, done: int) -> Iterator[list[Item]]:
        """The items of the updates but for the first ``done``, those of all processes."""
        epoch, skipped = divmod(done * self.batch_size, len(self.items))
        epochs = itertools.chain.from_iterable(self._shuffled(number) for number in range(epoch, self.epochs))
        order = itertools.islice(epochs, skipped, None)
        for _ in range(len(self) - done):
            yield [self.items[number] for number in itertools.islice(order, self.batch_size)]

    def once(self) -> Iterator[list[Item]]:
        """All items once, so many at a time as an update has."""
        order = iter(self._in_order())
        while some := [self.items[number] for number in itertools.islice(order, self.batch_size)]:
            yield some

    def share(self, items: list[Item]) -> list[Any]:
        """This process's micro-batches of these ``items``: as many in every process, by fillers, so that all are in
        step."""
        raise NotImplementedError

    def _in_order(self) -> Iterable[int]:
        return range(len(self.items))

    def _shuffled(self, epoch: int) -> Iterable[int]:
        """The numbers of the items in the order of this epoch."""
        raise NotImplementedError


class RowUpdates(Updates[int]):
    """Updates of rows, each a sequence of its own, known by their numbers: micro-batches of at most ``micro`` rows. A
    filler is an empty one. On one process the order is that of OpenRLHF's sampler (utils/distributed_sampler.py)."""

    def __init__(
        self, rows: int, batch_size: int, epochs: int, seed: int, micro: int, rank: int = 0, ranks: int = 1
    ) -> None:
        super().__init__(range(rows), batch_size, epochs, seed, rank, ranks)
        self.micro = micro

    def share(self, items: list[int]) -> list[list[int]]:
        mine = items[self.rank :: self.ranks]
        most = math.ceil(len(items) / self.ranks)
        return [mine[start : start + self.micro] for start in range(0, most, self.micro)]

    def _shuffled(self, epoch: int) -> list[int]:
        drawn = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(len(self.items), generator=drawn).tolist()


class PairUpdates(Updates[Pair]):
    """Updates of pairs: micro-batches of at most ``budget`` tokens.

    The pairs of a problem share their question and often much of an answer, so they stay together: an epoch shuffles
    the problems, not the pairs. The pairs of a problem of more than ``per_problem`` are cut into runs of at most so
    many, which are spread evenly over the epoch.
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
        per_problem: int = 8,
    ) -> None:
        """``separate``: the two sides of each pair take two rows, with nothing shared."""
        super().__init__(pairs, batch_size, epochs, seed, rank, ranks)
        self.budget, self.separate, self.per_problem = budget, separate, per_problem
        problems: dict[Any, list[int]] = {}
        for number, pair in enumerate(pairs):
            problems.setdefault(pair.problem, []).append(number)
        self.problems = list(problems.values())

    def share(self, items: list[Pair]) -> list[MicroBatch]:
        groups: dict[Any, list[Pair]] = {}
        for pair in items:
            groups.setdefault(pair.problem, []).append(pair)
        parts = self._evened([part for group in groups.values() for part in self._fitting(group)])
        plans = [
            [
                [[pair for part in row for pair in mine[part].pairs] for row in rows]
                for rows in packing.micro_batches([part.size for part in mine], self.budget, self.separate)
            ]
            for mine in self._dealt(parts)
        ]
        plan = plans[self.rank]
        filler = [[replace(min(parts, key=_size).pairs[0], weight=0.0, filler=True)]]
        return plan + [filler] * (max(map(len, plans)) - len(plan))

    def _dealt(self, parts: Sequence[Part]) -> list[list[Part]]:
        """The parts of each process: the largest first, each to the one with the fewest tokens so far."""
        dealt: list[list[Part]] = [[] for _ in range(self.ranks)]
        loads = [0] * self.ranks
        for part in sorted(parts, key=_size, reverse=True):
            rank = loads.index(min(loads))
            dealt[rank].append(part)
            loads[rank] += part.size
        return dealt

    def _evened(self, parts: list[Part]) -> list[Part]:
        """The parts, the largest cut in two again and again as far as that leaves the most loaded process less to do.

        What two halves share is then computed twice. So the mean load grows with every cut, and once it is the least
        that was found for the most loaded process, no further cut can help: with one process it is so from the start.
        """
        best, least = parts, self._heaviest(parts)
        while sum(map(_size, parts)) < least * self.ranks:
            largest = max((part for part in parts if len(part.pairs) > 1), key=_size, default=None)
            if largest is None:
                break
            halves = [self._part(half) for half in _cut(largest.pairs, 2, Pair.sequences)]
            parts = [part for part in parts if part is not largest] + halves
            if (heaviest := self._heaviest(parts)) < least:
                best, least = parts, heaviest
        return best

    def _heaviest(self, parts: Sequence[Part]) -> int:
        return max(sum(map(_size, mine)) for mine in self._dealt(parts))

    def _fitting(self, pairs: list[Pair]) -> list[Part]:
        """The pairs in parts that fit the budget, or that are one pair."""
        part = self._part(pairs)
        if len(pairs) == 1 or (part.size <= self.budget and not self.separate):
            return [part]
        return [part for half in _cut(pairs, 2, Pair.sequences) for part in self._fitting(half)]

    def _part(self, pairs: list[Pair]) -> Part:
        sides = [side for pair in pairs for side in pair.sequences()]
        return Part(2 * max(map(len, sides)) if self.separate else len(packing.Trie.of(sides).ids), pairs)

    def _in_order(self) -> list[int]:
        """Problem by problem: what a problem's pairs share is computed once."""
        return list(itertools.chain.from_iterable(self.problems))

    def _shuffled(self, epoch: int) -> list[int]:
        """The pairs in the order of this epoch: of a problem's n runs one lies in each n-th of it, all at the same
        place in theirs."""
        draw = random.Random(f"{self.seed} {epoch}")
        problems = list(self.problems)
        draw.shuffle(problems)
        placed: list[tuple[float, list[int]]] = []
        for rank, problem in enumerate(problems):
            runs = _cut(problem, math.ceil(len(problem) / self.per_problem), self._sequences)
            draw.shuffle(runs)
            placed += [((number + rank / len(problems)) / len(runs), run) for number, run in enumerate(runs)]
        placed.sort(key=lambda run: run[0])
        return [pair for _, run in placed for pair in run]

    def _sequences(self, number: int) -> tuple[list[int], list[int]]:
        return self.items[number].sequences()


def _size(part: Part) -> int:
    return part.size


def _cut(pairs: list[Item], count: int, sequences: Callable[[Item], Any]) -> list[list[Item]]:
    """The pairs in ``count`` parts, their numbers equal but for one; those that share most are next to each other."""
    if count > 1:
        pairs = sorted(pairs, key=sequences)
    return [pairs[len(pairs) * n // count : len(pairs) * (n + 1) // count] for n in range(count)]


def sides(model: Any, rows: MicroBatch, device: Any, separate: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and numbers of tokens of the sides of the pairs: chosen, rejected, chosen, ...; ``separate``:
    each side in a row of its own, with nothing shared."""
    sequences = [[(side, len(pair.prompt)) for pair in row for side in pair.sequences()] for row in rows]
    if separate:
        sequences = [[one] for row in sequences for one in row]
    return packing.log_probs(model, packing.pack(sequences).to(device), separate)
