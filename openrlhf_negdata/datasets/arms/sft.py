"""The arm ``sft``: the teacher's solutions, D_syn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from openrlhf_negdata.datasets.rows import Account, Answered, Arm, Row, sft_row


@dataclass
class Sft(Arm):
    """A row a problem that has a solution."""

    tables: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = "problems"

    def units(self, known: Answered) -> int:
        return 1

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        if known.teacher is None:
            account.drop("no_solution")
        else:
            account.keep()
            yield sft_row(known, known.teacher)


arm = Sft
