"""Per-step DPO (Setlur et al. 2024, equation 5; Rafailov et al. 2023) on OpenRLHF's strategy, Actor, logs and
checkpoints.

Per-step DPO differs from DPO in its pairs alone. What is written anew is the loop: a micro-batch is a budget of
distinct tokens instead of a number of pairs, the reference's log-probabilities are read instead of computed, and the
loss of an update is the mean over all its pairs however they are spread over micro-batches and processes. (OpenRLHF
0.11.2's loop also counts an epoch in whole updates, and so resumes at the wrong row: dpo_trainer.py:123-125.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from openrlhf.trainer.dpo_trainer import DPOTrainer

from openrlhf_negdata.trainers.loop import Loop
from openrlhf_negdata.trainers.losses import DPOLoss
from openrlhf_negdata.trainers.tokens import Pair
from openrlhf_negdata.trainers.updates import MicroBatch, PairUpdates, sides

#: Of both sides, by their numbers.
LogProbs = Sequence[tuple[float, float]]

#: Sums over pairs.
FIGURES = (
    *("loss", "acc", "chosen_reward", "reject_reward", "margin", "chosen_logp", "reject_logp", "kl", "nll"),
    "pairs",
)


class StepDPOTrainer(Loop, DPOTrainer):
    """``data`` holds the reference's log-probabilities of both sides of each pair, by its number.

    Logged of an update, and of a held-out set, over all its pairs: loss, accuracy, implicit rewards (beta times the
    log-ratio to the reference) of both sides and their margin; the summed log-probabilities of both sides, whose joint
    fall is DPO's known failure; ``kl``, the mean of log pi_ref - log pi over the tokens of both sides, which estimates
    KL(pi_ref || pi) a token where the reference sampled them; and ``tokens_per_second`` of both sides' whole sequences
    over all processes, be they shared or not.
    """

    best = ("margin", True)

    def __init__(
        self,
        updates: PairUpdates,
        data: LogProbs,
        evaluated: tuple[PairUpdates, LogProbs] | None = None,
        **host: Any,
    ) -> None:
        self.updates, self.data, self.evaluated = updates, data, evaluated
        # What OpenRLHF's trainer looks up, and step DPO has no use for.
        args = host["strategy"].args
        args.model.aux_loss_coef, args.ds.packing_samples = 0.0, False
        super().__init__(ref_model=None, train_dataloader=None, eval_dataloader=None, **host)
        self.separate = self.args.train.separate_sequences_enable
        settings = self.args.model
        self.loss_fn = DPOLoss(self.beta, settings.label_smoothing, settings.ipo_enable, settings.positive_penalty)

    def step_loss(self, micro_batch: MicroBatch, data: LogProbs, total: int) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = [pair for row in micro_batch for pair in row]
        device = next(self.model.parameters()).device
        log_probs, tokens = sides(self.model.model, micro_batch, device, self.separate)
        chosen, rejected = log_probs.view(-1, 2).unbind(1)
        reference = torch.tensor([data[pair.number] for pair in pairs], device=device)
        chosen_reward, rejected_reward = chosen - reference[:, 0], rejected - reference[:, 1]
        weights = torch.tensor([pair.weight for pair in pairs], device=device)
        losses = self.loss_fn(chosen_reward, rejected_reward)
        nll = -chosen / tokens.view(-1, 2)[:, 0]
        loss = ((losses + self.args.model.nll_loss_coef * nll) * weights).sum() * (self.updates.ranks / total)
        with torch.no_grad():
            counted = torch.tensor([float(not pair.filler) for pair in pairs], device=device)
            figures = torch.stack([
                losses * weights,
                (chosen_reward > rejected_reward).float(),
                self.beta * chosen_reward,
                self.beta * rejected_reward,
                self.beta * (chosen_reward - rejected_reward),
                chosen,
                rejected,
                -(chosen_reward + rejected_reward) / tokens.view(-1, 2).sum(1),
                nll,
                counted,
            ])  # fmt: skip
            return loss, (figures * counted).sum(1, dtype=torch.float64)

    def total(self, items: Sequence[Pair], data: LogProbs) -> int:
        return len(items)

    def tokens(self, items: Sequence[Pair], data: LogProbs) -> int:
        return sum(len(side) for pair in items for side in pair.sequences())

    def means(self, sums: list[float]) -> dict[str, float]:
        *figures, pairs = sums
        return {name: value / pairs for name, value in zip(FIGURES, figures, strict=False)}
