"""Torch datasets that feed OpenRLHF's trainers the token ids of a training set as they stand.

OpenRLHF's own datasets take text: they strip newlines, append " </s>" to every answer, re-tokenise across the
boundary and cut what is too long (openrlhf/datasets/reward_dataset.py:138-176, sft_dataset.py:175-194). Here nothing
is tokenised, added or cut; rows that cannot be trained on are dropped, and counted by reason in ``dropped``.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openrlhf.datasets import SFTDataset
from openrlhf.utils.utils import zero_pad_sequences

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import read_file
from openrlhf_negdata.steps.credit import spread


def read_rows(paths: str, fields: tuple[str, ...], model: Any, weights: bool = False) -> Iterator[dict[str, Any]]:
    """The token ids of a set, of files separated by commas, lazily: ``fields`` of every row, each a list of ids that
    ``model`` knows; its ``problem`` and ``weight``, if it has them; and with ``weights`` its ``step_ends`` and
    ``weights``, which another trainer must not pass over."""
    known = model.model.get_input_embeddings().num_embeddings

    def parse(row: dict[str, Any], _: int) -> dict[str, Any]:
        for field in fields:
            # By its type: to isinstance, true is an integer.
            if not isinstance(row[field], list) or not {*map(type, row[field])} <= {int}:
                raise ValueError(f"{field} is not a list of token ids (build the set with --tokenizer)")
            if row[field] and not 0 <= min(row[field]) <= max(row[field]) < known:
                raise ValueError(f"{field} has ids that are none of the model's {known}: built for another model?")
        # In a table, a field that other rows have is there and holds nothing.
        if not weights and row.get("weights") is not None:
            raise ValueError("it has weights: train on it with openrlhf_negdata.cli.train_advantage_weighted")
        if weights:
            _check_weights(row["step_ends"], row["weights"], len(row["response_ids"]))
        optional = tuple(field for field in ("problem", "weight") if row.get(field) is not None)
        if "weight" in optional and not 0 <= row["weight"] < math.inf:
            raise ValueError(f"weight is {row['weight']}, and must be 0 or more")
        return {field: row[field] for field in (*fields, *optional, *(("step_ends", "weights") if weights else ()))}

    return itertools.chain.from_iterable(read_file(file, parse) for file in paths.split(","))


def _check_weights(ends: Any, weights: Any, tokens: int) -> None:
    if not isinstance(ends, list) or not isinstance(weights, list) or len(ends) != len(weights):
        raise ValueError("step_ends and weights are not two lists of one length")
    if not {*map(type, ends)} <= {int} or ends != sorted(set(ends)) or (ends and (ends[0] < 1 or ends[-1] != tokens)):
        raise ValueError(f"step_ends {ends} do not rise to the {tokens} tokens of the response")
    if not all(type(weight) in (int, float) and math.isfinite(weight) for weight in weights):
        raise ValueError("weights are not all finite numbers")


class Column:
    """A list of numbers a row, in a file that is mapped into memory and gone with the process: 4 bytes an int32."""

    def __init__(self, dtype: Any = np.int32, folder: str | Path | None = None) -> None:
        """``folder``: where the file lies; it has no name there. The system's folder of temporary files if None."""
        self.dtype = np.dtype(dtype)
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the column is read
        self.ends = array("q", [0])
        self.mapped: np.ndarray | None = None

    def append(self, values: Sequence[float]) -> None:
        self.file.write(np.asarray(values, self.dtype).tobytes())
        self.ends.append(self.ends[-1] + len(values))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def size(self, row: int) -> int:
        """The length of the list of ``row``."""
        return self.ends[row + 1] - self.ends[row]

    def __getitem__(self, row: int) -> list[Any]:
        return self.all()[self.ends[row] : self.ends[row + 1]].tolist()

    def all(self) -> np.ndarray:
        """The numbers of all rows, one after the other; no row is appended after this."""
        if self.mapped is None:
            self.file.flush()
            # mmap takes no empty file.
            self.mapped = np.memmap(self.file, self.dtype, "r") if self.ends[-1] else np.empty(0, self.dtype)
        return self.mapped


class TokenSFTDataset(SFTDataset):
    """Rows ``{"prompt_ids", "response_ids"}``; the loss is on the response's tokens, its last one included."""

    def __init__(
        self, rows: Iterable[dict[str, Any]], tokenizer: Any, max_length: int, folder: str | Path | None = None
    ) -> None:
        """``folder``: where the ids are kept, see :class:`Column`."""
        self.tokenizer = tokenizer
        self.prompts, self.responses = Column(folder=folder), Column(folder=folder)
        self.dropped: Counter[str] = Counter()
        for row in rows:
            prompt, response = row["prompt_ids"], row["response_ids"]
            if not prompt or not response:
                self.dropped["empty"] += 1
            elif len(prompt) + len(response) > max_length:
                self.dropped["over_long"] += 1
            else:
                self._keep(row)
        _not_empty(len(self), self.dropped, max_length)

    def _keep(self, row: dict[str, Any]) -> None:
        self.prompts.append(row["prompt_ids"])
        self.responses.append(row["response_ids"])

    def __len__(self) -> int:
        return len(self.prompts)

    def tokens(self, rows: Iterable[int]) -> int:
        """The number of tokens of the responses of these rows: those that are counted in the loss."""
        return sum(map(self.responses.size, rows))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        prompt = self.prompts[index]
        ids = torch.tensor([prompt + self.responses[index]])
        mask = torch.zeros(ids.shape)
        # OpenRLHF's mask is shifted: position t stands for the loss on token t + 1.
        mask[0, len(prompt) - 1 : -1] = 1.0
        return ids, torch.ones_like(ids), mask


class WeightedDataset(TokenSFTDataset):
    """Rows with ``step_ends`` and ``weights`` too: a token of the response weighs what its step does.

    An item is (ids, mask, loss mask, weights), each of shape (1, tokens); weights are shifted as the loss mask is, and
    0 where that is.
    """

    def __init__(
        self, rows: Iterable[dict[str, Any]], tokenizer: Any, max_length: int, folder: str | Path | None = None
    ) -> None:
        self.step_ends, self.weights = Column(folder=folder), Column(np.float64, folder)
        super().__init__(rows, tokenizer, max_length, folder)

    def _keep(self, row: dict[str, Any]) -> None:
        super()._keep(row)
        self.step_ends.append(row["step_ends"])
        self.weights.append(row["weights"])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        ids, mask, loss_mask = super().__getitem__(index)
        weights, start = torch.zeros(ids.shape), self.prompts.size(index) - 1
        of_tokens = torch.from_numpy(spread(self.weights[index], self.step_ends[index]))
        weights[0, start : start + len(of_tokens)] = of_tokens
        return ids, mask, loss_mask, weights

    def token_weights(self) -> torch.Tensor:
        """The weights of all tokens of all responses, of shape (tokens,)."""
        of_rows = [spread(self.weights[row], self.step_ends[row]) for row in range(len(self))]
        return torch.from_numpy(np.concatenate(of_rows)).float()

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


class StepPairs(Sequence[Pair]):
    """The pairs of a set that can be trained on; ``longest`` is the number of tokens of their longest sequence."""

    def __init__(self, rows: Iterable[dict[str, Any]], max_length: int, folder: str | Path | None = None) -> None:
        """``folder``: where the ids are kept, see :class:`Column`."""
        self.prompts, self.chosen, self.rejected = (Column(folder=folder) for _ in range(3))
        self.problems: list[Any] = []
        self.weights = array("d")
        self.longest = 0
        self.dropped: Counter[str] = Counter()
        for row in rows:
            prompt, chosen, rejected = row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]
            length = len(prompt) + max(len(chosen), len(rejected))
            if not prompt or not chosen or not rejected:
                self.dropped["empty"] += 1
            elif chosen == rejected:
                self.dropped["equal"] += 1
            elif length > max_length:
                self.dropped["over_long"] += 1
            else:
                self.prompts.append(prompt)
                self.chosen.append(chosen)
                self.rejected.append(rejected)
                named = row.get("problem") is not None
                self.problems.append(row["problem"] if named else hashlib.sha256(repr(prompt).encode()).digest())
                self.weights.append(row.get("weight", 1.0))
                self.longest = max(self.longest, length)
        _not_empty(len(self), self.dropped, max_length)

    def __len__(self) -> int:
        return len(self.problems)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        sides = self.chosen[number], self.rejected[number]
        return Pair(number, self.problems[number], self.prompts[number], *sides, self.weights[number])


def _not_empty(rows: int, dropped: Counter[str], max_length: int) -> None:
    if not rows:
        raise UserError(
            f"no row is left to train on (dropped: {dict(dropped) or 'none'}; --data.max_len {max_length})"
        )
