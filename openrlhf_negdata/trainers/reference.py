"""The reference's log-probabilities of the pairs, computed once and kept in a file.

A row of the file is a pair and a reference: ``key`` hashes the token ids of the pair, the revision of the reference
model and its number type, so a file may hold those of many sets and models, and none is taken for another's.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed
from tqdm import tqdm

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import locked
from openrlhf_negdata.trainers.processes import from_rank_0
from openrlhf_negdata.trainers.tokens import Pair
from openrlhf_negdata.trainers.updates import PairUpdates, sides

#: Pairs between two writes of the file.
PAIRS_A_WRITE = 1000

SCHEMA = pa.schema([("key", pa.string()), ("chosen", pa.float64()), ("rejected", pa.float64())])


class Reference:
    """Log-probabilities under the model of ``revision`` with numbers of ``dtype``, in the parquet file ``path``."""

    def __init__(self, path: Path, revision: str, dtype: str) -> None:
        """Rank 0 reads the file for all processes: others might see another run's write, or have another disk."""
        self.path, self.model = path, f"{revision} {dtype}"
        self.lock = lock_of(path)
        self.known = from_rank_0(lambda: _read(path))

    def key(self, pair: Pair) -> str:
        return hashlib.sha256(repr((self.model, pair.prompt, pair.chosen, pair.rejected)).encode()).hexdigest()

    def missing(self, pairs: Iterable[Pair]) -> list[int]:
        """The places among ``pairs`` of those that are not known."""
        return [place for place, pair in enumerate(pairs) if self.key(pair) not in self.known]

    def of(self, pairs: Iterable[Pair]) -> list[tuple[float, float]]:
        """Those of the chosen and the rejected side of each pair; all must be known."""
        return [self.known[self.key(pair)] for pair in pairs]

    def add(self, model: Any, updates: PairUpdates, separate: bool) -> None:
        """Compute those of ``updates``' pairs under ``model``, in all processes together; the file has them after
        every PAIRS_A_WRITE, or every twentieth of all where that is more, so that a kill costs no more."""
        found: dict[str, tuple[float, float]] = {}
        updates_a_write = math.ceil(max(PAIRS_A_WRITE, len(updates.items) / 20) / updates.batch_size)
        device = next(model.parameters()).device
        model.eval()
        with torch.no_grad(), tqdm(total=len(updates.items), desc="reference", disable=updates.rank != 0) as bar:
            for number, items in enumerate(updates.once(), start=1):
                for rows in updates.share(items):
                    sums = sides(model, rows, device, separate)[0].view(-1, 2).tolist()
                    pairs = [pair for row in rows for pair in row]
                    found |= {self.key(pair): (both[0], both[1]) for pair, both in zip(pairs, sums, strict=True)}
                bar.update(len(items))
                if number % updates_a_write == 0:
                    self._share(found)
                    found = {}
        self._share(found)

    def _share(self, found: dict[str, tuple[float, float]]) -> None:
        """Give what each process ``found`` to all, and to the file."""
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, found)
        for some in gathered:
            self.known |= some
        from_rank_0(self._merge)

    def _merge(self) -> None:
        """Write the file, with what other runs have put there since it was read."""
        with locked(self.lock):
            known = _read(self.path) | self.known
            rows = [{"key": key, "chosen": both[0], "rejected": both[1]} for key, both in known.items()]
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
            os.replace(temporary, self.path)


def lock_of(path: Path) -> Path:
    """Held while the file is written; it is empty, and stays beside a file that runs share."""
    return path.with_name(f".{path.name.removeprefix('.')}.lock")


def _read(path: Path) -> dict[str, tuple[float, float]]:
    """The file's log-probabilities of both sides, by key; none where there is no file."""
    if not path.exists():
        return {}
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (pa.ArrowInvalid, KeyError) as error:
        raise UserError(f"--ref.log_probs {path} is no file of this command: {error}") from None
    columns = (table[name].to_pylist() for name in SCHEMA.names)
    return {key: (chosen, rejected) for key, chosen, rejected in zip(*columns, strict=True)}
