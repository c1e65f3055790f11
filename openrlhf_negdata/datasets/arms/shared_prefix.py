"""The arm ``shared-prefix``: from the prefix before the first pit, a correct rollout against the pit (Self-Explore,
Hwang et al. 2024; inspired by the shared prefix of Theorem 6.1 of Setlur et al. 2024, whose premise it does not meet:
the arm ``theorem`` does)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from openrlhf_negdata.datasets.pits import AtPits, Side
from openrlhf_negdata.datasets.rows import Answered
from openrlhf_negdata.flags import flag
from openrlhf_negdata.records import CORRECT, Trace


@dataclass
class SharedPrefix(AtPits):
    """``rejected_rest``: rejected is the pit with all that follows it, in place of the pit alone. ``same_step``: the
    chosen rollout may then take the very step that is blamed, as some rollouts do and still get there. ``shortest``:
    the chosen rollout is the right one of fewest tokens, as in Self-Explore, in place of any."""

    rejected_rest: bool = flag(False, "rejected is the pit and all after it")
    same_step: bool = flag(
        False,
        "chosen may take the very step that is rejected",
        only=("--rejected_rest", lambda arm: arm.rejected_rest),  # or the pit, cancelled, would be penalised nowhere
    )
    shortest: bool = flag(False, "chosen is the shortest of the right rollouts")
    stream: ClassVar[str] = "shared_prefix"

    def sides(
        self, known: Answered, trace: Trace, start: int, end: int
    ) -> tuple[list[int], list[int], list[Side]] | str:
        ids = list(trace.token_ids or ())
        shared, pit = ids[:start], ids[start:end]
        right = [one for one in known.rollouts if one.outcome == CORRECT and one.prefix_ids == shared]
        if not right:
            return "no_correct_rollout"
        others = right if self.same_step else [one for one in right if one.token_ids[: len(pit)] != pit]
        if not others:
            return "rejected_begins_chosen"
        if self.shortest:
            others = [min(others, key=lambda rollout: (len(rollout.token_ids), rollout.seed))]
        return shared, ids[start:] if self.rejected_rest else pit, [(o.token_ids, f"rollout {o.seed}") for o in others]


arm = SharedPrefix
