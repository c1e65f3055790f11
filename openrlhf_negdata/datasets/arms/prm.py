"""The arm ``prm``: a label a step, for process reward models, in the forms that TRL and OpenRLHF train on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from openrlhf_negdata.datasets.rows import Account, Answered, Limited, Origin, Row, ValuedArm, drawn_in_order, source
from openrlhf_negdata.flags import flag
from openrlhf_negdata.steps.credit import credit

FORMS = ("trl", "openrlhf")
LABELS = ("hard", "soft")
#: What stands after each step in OpenRLHF's form, where the label is learned (--placeholder_token there).
PLACEHOLDER = "ки"


@dataclass
class Prm(Limited, ValuedArm):
    """Every valued answer, up to ``per_problem`` a problem (-1: all), drawn by ``seed``.

    A step's label is Q after it (``soft``), or whether that is above 0 (``hard``; Math-Shepherd's hard estimation).
    ``trl``: ``{"prompt", "completions", "labels"}``, hard labels true or false. ``openrlhf``: ``{"input", "value"}``,
    each step followed by the placeholder, hard labels ``+`` or ``-``.
    """

    form: str = flag("trl", "whose format", choices=FORMS)
    labels: str = flag("hard", "whether Q is above 0, or Q itself", choices=LABELS)
    tokenizer: Any = None

    ids: ClassVar[bool] = False

    def begin(self, origin: Origin) -> None:
        super().begin(origin)
        self.tokenizer = origin.tokenizer

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        said = [one for one in known.valued() if set(one[0].token_ids or ()) - {self.tokenizer.eos_token_id}]
        account.drop("empty", len(known.values) - len(said))
        taken = drawn_in_order(said, self.per_problem, known.rng(self.seed))
        account.cap(len(taken), len(said))
        for trace, values in taken:
            prompt, *steps = self._texts(known.prompt_ids or [], trace.token_ids or [], values.step_ends)
            q = credit(values, trace.outcome, self.estimator, "q")
            if not steps[-1]:
                # The end of the sequence alone is no text that could be labelled: the step before it ends the answer.
                del steps[-1], q[-2]
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

    def _texts(self, prompt_ids: list[int], ids: list[int], ends: list[int]) -> list[str]:
        """The text of the prompt and of each step, without the end of the sequence; they join to that of the whole.

        They are cut out of it: many tokenizers drop a space where they decode a part on its own.
        """
        whole = [*prompt_ids, *(token for token in ids if token != self.tokenizer.eos_token_id)]
        at = [len(prompt_ids), *(len(prompt_ids) + end for end in ends)]
        cuts = [0, *(len(self._decode(whole[:end])) for end in at)]
        text = self._decode(whole)
        return [text[start:end] for start, end in zip(cuts, [*cuts[1:-1], len(text)], strict=False)]

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


arm = Prm
