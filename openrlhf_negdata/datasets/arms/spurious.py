"""The arm ``spurious``: an RFT set of equal size whose answers hold steps that are only accidentally right (Setlur et
al. 2024, fig 4). How the paper seeds them is not known, so both ways are here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from openrlhf_negdata.datasets.rows import Account, Answered, Limited, Row, ValuedArm, drawn, sft_row
from openrlhf_negdata.flags import flag
from openrlhf_negdata.records import CORRECT, Trace
from openrlhf_negdata.steps.credit import credit

SEEDINGS = ("low_advantage", "recovered")


@dataclass
class Spurious(Limited, ValuedArm):
    """``per_problem`` of a problem's valued right answers, drawn by ``seed``; then each is replaced, with probability
    ``share``, by a spurious one of the same problem while there are any. With ``share`` 0 it is the clean set, of the
    same problems and the same size.

    ``low_advantage``: another right answer, one with a step of lower advantage than any of the one it replaces.
    ``recovered``: a wrong answer up to and with a step that lost value, and a right rollout that went on from there.
    """

    per_problem: int = flag(1, "right answers a problem", least=1)
    seeding: str = flag(
        "low_advantage",
        "right answers with the lowest advantage, or wrong ones that a rollout recovered",
        choices=SEEDINGS,
    )
    share: float = flag(1.0, "chance that an answer is replaced", least=0, most=1)

    tables: ClassVar[tuple[str, ...]] = ("traces", "values", "rollouts")

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        least = {trace.sample: min(credit(values, trace.outcome, self.estimator)) for trace, values in known.valued()}
        right = sorted(
            (trace for trace, _ in known.valued() if trace.outcome == CORRECT), key=lambda trace: trace.sample
        )
        rng = known.rng(self.seed, "spurious")
        clean = drawn(right, self.per_problem, rng)
        used: set[int] = set()
        if self.seeding == "recovered":
            spurious = self._recovered(known) if clean else []
        else:
            others = [trace for trace in right if trace not in clean]
            spurious = sorted(others, key=lambda trace: least[trace.sample])
        for trace in clean:
            other = spurious[0] if spurious and rng.random() < self.share else None
            if other and (self.seeding == "recovered" or least[other.sample] < least[trace.sample]):
                spurious.pop(0)
                source = f"answer {other.sample}" + " and a rollout" * (self.seeding == "recovered")
                yield sft_row(known, other, **{"from": source, "spurious": True})
                used.add(other.sample)
            else:
                yield sft_row(known, trace, spurious=False, least_advantage=round(least[trace.sample], 4))
                used.add(trace.sample)
        for trace, _ in known.valued():
            if trace.sample in used:
                account.keep()
            else:
                account.drop("not_drawn" if trace.outcome == CORRECT else str(trace.outcome))

    def _recovered(self, known: Answered) -> list[Trace]:
        """From each wrong answer: the step of the least advantage that a right rollout went on from, all before it,
        and the first of those rollouts. A step that lost nothing is none."""
        right: dict[tuple[int, ...], list[int]] = {}
        for rollout in known.rollouts:
            if rollout.outcome == CORRECT:
                right.setdefault(tuple(rollout.prefix_ids), rollout.token_ids)
        made = []
        for trace, values in known.valued():
            if trace.outcome == CORRECT:
                continue
            steps = credit(values, trace.outcome, self.estimator)
            begun = [tuple((trace.token_ids or [])[:end]) for end in values.step_ends]
            recovered = [i for i, prefix in enumerate(begun) if prefix in right and steps[i] < 0]
            if recovered:
                prefix = begun[min(recovered, key=steps.__getitem__)]
                made.append(replace(trace, token_ids=[*prefix, *right[prefix]], text="", outcome=CORRECT))
        return made


arm = Spurious
