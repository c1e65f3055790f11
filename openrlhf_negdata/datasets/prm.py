"""The arm ``prm``: a label a step, for process reward models, in the forms that TRL and OpenRLHF train on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from openrlhf_negdata.datasets.rows import Account, Answered, Arm, Row, drawn, source
from openrlhf_negdata.steps.values import Estimator

FORMS = ("trl", "openrlhf")
LABELS = ("hard", "soft")
#: What stands after each step in OpenRLHF's form, where the label is learned (--placeholder_token there).
PLACEHOLDER = "ки"


@dataclass
class Prm(Arm):
    """Every valued answer, up to ``per_problem`` a problem (-1: all), drawn by ``seed``.

    A step's label is Q after it (``soft``), or whether that is above 0 (``hard``; Math-Shepherd's hard estimation).
    ``trl``: ``{"prompt", "completions", "labels"}``, hard labels true or false. ``openrlhf``: ``{"input", "value"}``,
    each step followed by the placeholder, hard labels ``+`` or ``-``.
    """

    estimator: Estimator
    tokenizer: Any
    form: str = "trl"
    labels: str = "hard"
    per_problem: int = -1
    seed: int = 0

    unit = "valued answers"
    needs_values = True

    def units(self, known: Answered) -> int:
        return len(known.values)

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        valued = list(known.valued())
        taken = sorted(drawn(range(len(valued)), self.per_problem, known.rng(self.seed)))
        account.keep(len(taken))
        account.drop("over_per_problem", len(valued) - len(taken))
        prompt = self._text(known.prompt_ids or [], False)
        for trace, values in (valued[i] for i in taken):
            ids, ends = trace.token_ids or [], values.step_ends
            steps = [self._text(ids[start:end], True) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
            q = self.estimator.q(values, str(trace.outcome))[1:]
            row: Row = {"problem": known.problem.id, "from": source(trace)}
            if self.form == "trl":
                labels: list[Any] = [after > 0 for after in q]
                row |= {"prompt": prompt, "completions": steps}
                key = "labels"
            else:
                labels = ["+" if after > 0 else "-" for after in q]
                row |= {"input": prompt + "".join(f"{step}{PLACEHOLDER}" for step in steps)}
                key = "value"
            yield row | {key: labels if self.labels == "hard" else [round(after, 4) for after in q]}

    def _text(self, ids: list[int], plain: bool) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=plain, clean_up_tokenization_spaces=False)
