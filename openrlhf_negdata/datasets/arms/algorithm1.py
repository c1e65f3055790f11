"""The arm ``algorithm1``: a correct answer against the wrong one cut right after its first pit, from the bare prompt
(Setlur et al. 2024, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from openrlhf_negdata.datasets.pits import AtPits, Side
from openrlhf_negdata.datasets.rows import Answered, source
from openrlhf_negdata.flags import flag
from openrlhf_negdata.records import Trace


@dataclass
class Algorithm1(AtPits):
    """``chosen_teacher``: the chosen answer is the teacher's solution, in place of one of the policy's own."""

    chosen_teacher: bool = flag(False, "chosen is the teacher's solution")
    stream: ClassVar[str] = "algorithm1"

    def sides(
        self, known: Answered, trace: Trace, start: int, end: int
    ) -> tuple[list[int], list[int], list[Side]] | str:
        if self.chosen_teacher:
            others = [known.teacher] if known.teacher else []
        else:
            others = [other for other in known.right() if other is not trace]
        if not others:
            return "no_solution" if self.chosen_teacher else "no_correct_answer"
        return [], list(trace.token_ids or ())[:end], [(other.token_ids or (), source(other)) for other in others]


arm = Algorithm1
