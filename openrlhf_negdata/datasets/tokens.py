"""Torch datasets that feed OpenRLHF's trainers the token ids of a training set as they stand.

OpenRLHF's own datasets take text: they strip newlines, append " </s>" to every answer, re-tokenise across the
boundary and cut what is too long (openrlhf/datasets/reward_dataset.py:138-176, sft_dataset.py:175-194). Here nothing
is tokenised, added or cut; rows that cannot be trained on are dropped, and counted by reason in ``dropped``.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from openrlhf.datasets import SFTDataset
from openrlhf.utils.utils import zero_pad_sequences

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.trainers.packing import Trie, micro_batches


class TokenSFTDataset(SFTDataset):
    """Rows ``{"prompt_ids", "response_ids"}``; the loss is on the response's tokens, its last one included."""

    def __init__(self, rows: Iterable[dict[str, Any]], tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.rows: list[dict[str, Any]] = []
        self.dropped: Counter[str] = Counter()
        for row in rows:
            prompt, response = row["prompt_ids"], row["response_ids"]
            if not prompt or not response:
                self.dropped["empty"] += 1
            elif len(prompt) + len(response) > max_length:
                self.dropped["over_long"] += 1
            else:
                self.rows.append(row)
        _not_empty(self.rows, self.dropped, max_length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        prompt, response = self.rows[index]["prompt_ids"], self.rows[index]["response_ids"]
        ids = torch.tensor([prompt + response])
        mask = torch.zeros(ids.shape)
        # OpenRLHF's mask is shifted: position t stands for the loss on token t + 1.
        mask[0, len(prompt) - 1 : -1] = 1.0
        return ids, torch.ones_like(ids), mask


class WeightedDataset(TokenSFTDataset):
    """Rows with ``step_ends`` and ``weights`` too: a token of the response weighs what its step does.

    An item is (ids, mask, loss mask, weights), each of shape (1, tokens); weights are shifted as the loss mask is, and
    0 where that is.
    """

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        ids, mask, loss_mask = super().__getitem__(index)
        row, weights = self.rows[index], torch.zeros(ids.shape)
        start = len(row["prompt_ids"]) - 1
        for end, weight in reversed(list(zip(row["step_ends"], row["weights"], strict=True))):
            weights[0, start : start + end] = weight  # the earlier steps are written over
        return ids, mask, loss_mask, weights

    def collate_fn(self, items: list[Any]) -> tuple[torch.Tensor, ...]:
        padded = super().collate_fn([item[:3] for item in items])
        return *padded, zero_pad_sequences([item[3] for item in items], "right")


@dataclass(frozen=True)
class Pair:
    """A row ``{"prompt_ids", "chosen_ids", "rejected_ids"}``, perhaps with ``weight`` and ``problem``; ``number``
    counts them. A ``filler`` only keeps a process in step with the others: it is neither learned nor logged."""

    number: int
    problem: Any
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    weight: float = 1.0
    filler: bool = False

    def sequences(self) -> tuple[list[int], list[int]]:
        return self.prompt + self.chosen, self.prompt + self.rejected


#: What a process computes at once: the rows of a batch, and the pairs whose distinct tokens make up a row.
MicroBatch = list[list[Pair]]


class StepPairs:
    """The pairs of a set that can be trained on."""

    def __init__(self, rows: Iterable[dict[str, Any]], max_length: int) -> None:
        self.pairs: list[Pair] = []
        self.dropped: Counter[str] = Counter()
        for row in rows:
            prompt, chosen, rejected = row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]
            if not prompt or not chosen or not rejected:
                self.dropped["empty"] += 1
            elif chosen == rejected:
                self.dropped["equal"] += 1
            elif len(prompt) + max(len(chosen), len(rejected)) > max_length:
                self.dropped["over_long"] += 1
            else:
                problem = row.get("problem", tuple(prompt))
                self.pairs.append(Pair(len(self.pairs), problem, prompt, chosen, rejected, row.get("weight", 1.0)))
        _not_empty(self.pairs, self.dropped, max_length)

    def __len__(self) -> int:
        return len(self.pairs)


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
        """All pairs once, so many at a time as an update has."""
        for start in range(0, len(self.pairs), self.batch_size):
            yield self.share(self.pairs[start : start + self.batch_size])

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
                for rows in micro_batches([size for size, _ in mine], self.budget, self.separate)
            ]
            for mine in dealt
        ]
        plan = plans[self.rank]
        filler = [[replace(tries[-1][1][0], weight=0.0, filler=True)]]
        return plan + [filler] * (max(map(len, plans)) - len(plan))

    def _fitting(self, pairs: list[Pair]) -> list[tuple[int, list[Pair]]]:
        """The pairs in parts whose distinct tokens fit the budget, or that are one pair; and how many those are."""
        sides = [side for pair in pairs for side in pair.sequences()]
        size = 2 * max(map(len, sides)) if self.separate else len(Trie.of(sides).ids)
        if len(pairs) == 1 or (size <= self.budget and not self.separate):
            return [(size, pairs)]
        middle = len(pairs) // 2
        return self._fitting(pairs[:middle]) + self._fitting(pairs[middle:])

    def _shuffled(self, epoch: int) -> list[Pair]:
        problems = list(self.problems)
        random.Random(f"{self.seed} {epoch}").shuffle(problems)
        return [pair for problem in problems for pair in problem]


def _not_empty(rows: list[Any], dropped: Counter[str], max_length: int) -> None:
    if not rows:
        raise UserError(
            f"no row is left to train on (dropped: {dict(dropped) or 'none'}; --data.max_len {max_length})"
        )
