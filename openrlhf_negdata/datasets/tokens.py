"""Torch datasets that feed OpenRLHF's trainers the token ids of a training set as they stand.

OpenRLHF's own datasets take text: they strip newlines, append " </s>" to every answer, re-tokenise across the
boundary and cut what is too long (openrlhf/datasets/reward_dataset.py:138-176, sft_dataset.py:175-194). Here nothing
is tokenised, added or cut; rows that cannot be trained on are dropped, and counted by reason in ``dropped``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from openrlhf.datasets import SFTDataset
from openrlhf.utils.utils import zero_pad_sequences

from openrlhf_negdata.errors import UserError


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

    def token_weights(self) -> torch.Tensor:
        """The weights of all tokens of all responses, of shape (tokens,)."""
        lengths = [end - start for row in self.rows for start, end in pairwise([0, *row["step_ends"]])]
        weights = [weight for row in self.rows for weight in row["weights"]]
        return torch.repeat_interleave(torch.tensor(weights, dtype=torch.float), torch.tensor(lengths))

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
                problem = tuple(prompt) if row.get("problem") is None else row["problem"]
                self.pairs.append(Pair(len(self.pairs), problem, prompt, chosen, rejected, row.get("weight", 1.0)))
        _not_empty(self.pairs, self.dropped, max_length)

    def __len__(self) -> int:
        return len(self.pairs)


def _not_empty(rows: list[Any], dropped: Counter[str], max_length: int) -> None:
    if not rows:
        raise UserError(
            f"no row is left to train on (dropped: {dict(dropped) or 'none'}; --data.max_len {max_length})"
        )
