"""Per-step DPO (Setlur et al. 2024, equation 5; Rafailov et al. 2023) on OpenRLHF's strategy, Actor, logs and
checkpoints.

Per-step DPO differs from DPO in its pairs alone. What is written anew is the loop: a micro-batch is a budget of
distinct tokens instead of a number of pairs, the reference's log-probabilities are read instead of computed, and the
loss of an update is the mean over all its pairs however they are spread over micro-batches and processes. (OpenRLHF
0.11.2's loop also counts an epoch in whole updates, and so resumes at the wrong row: dpo_trainer.py:123-125.)
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from openrlhf.trainer.dpo_trainer import DPOTrainer
from tqdm import tqdm

from openrlhf_negdata.trainers.logs import close, log_evaluation
from openrlhf_negdata.trainers.losses import DPOLoss
from openrlhf_negdata.trainers.updates import MicroBatch, PairUpdates, sides


class StepDPOTrainer(DPOTrainer):
    """``updates`` stands in for the loaders of the host; ``reference`` holds the reference's log-probabilities of both
    sides of each pair, by its number; and ``evaluated`` is both of a held-out set, if there is one."""

    def __init__(
        self,
        updates: PairUpdates,
        reference: Sequence[tuple[float, float]],
        evaluated: tuple[PairUpdates, Sequence[tuple[float, float]]] | None = None,
        **host: Any,
    ) -> None:
        self.updates, self.reference, self.evaluated = updates, reference, evaluated
        super().__init__(ref_model=None, train_dataloader=updates, eval_dataloader=evaluated and evaluated[0], **host)
        self.separate = self.args.train.separate_sequences_enable
        settings = self.args.model
        self.loss_fn = DPOLoss(self.beta, settings.label_smoothing, settings.ipo_enable, settings.positive_penalty)

    def fit(self, args: Any, consumed_samples: int = 0, num_update_steps_per_epoch: int | None = None) -> None:
        """Train on the updates that are left after ``consumed_samples`` pairs.

        Logged of an update, over all its pairs: loss, accuracy, implicit rewards (beta times the log-ratio to the
        reference) of both sides and their margin; the summed log-probabilities of both sides, whose joint fall is
        DPO's known failure; ``kl``, the mean of log pi_ref - log pi over the tokens of both sides, which estimates
        KL(pi_ref || pi) a token where the reference sampled them; and ``tokens_per_second`` of both sides' whole
        sequences over all processes, be they shared or not.
        """
        if args.ckpt.save_steps == -1:
            args.ckpt.save_steps = float("inf")
        if args.eval.steps == -1:
            args.eval.steps = max(1, len(self.updates) // self.updates.epochs)
        done = consumed_samples // args.train.batch_size
        self.model.train()
        engine = self.model.model
        bar = tqdm(
            self.updates.after(done), desc="update", initial=done, total=len(self.updates),
            disable=not self.strategy.is_rank_0(),
        )  # fmt: skip
        for step, micro_batches in enumerate(bar, start=done + 1):
            begin, seen = time.monotonic(), Counter[str]()
            for number, pairs in enumerate(micro_batches, start=1):
                loss, figures = self.step_loss(pairs, self.reference, args.train.batch_size)
                engine.set_gradient_accumulation_boundary(number == len(micro_batches))
                # DeepSpeed divides by the micro-batches it was told of, whatever their number is.
                self.strategy.backward(loss * engine.gradient_accumulation_steps(), self.model, self.optimizer)
                self.strategy.optimizer_step(self.optimizer, self.model, self.scheduler)
                seen.update(figures)
            speed = self.updates.ranks * _tokens(micro_batches) / (time.monotonic() - begin)
            logs = self.strategy.all_reduce(dict(seen) | {"tokens_per_second": speed})
            logs |= {"grad_norm": self.strategy.get_grad_norm(self.model), "lr": self.scheduler.get_last_lr()[0]}
            bar.set_postfix({key: f"{value:.3g}" for key, value in logs.items()}, refresh=False)
            self.save_logs_and_checkpoints(args, step, bar, logs, {"consumed_samples": step * args.train.batch_size})
        close(self)

    def evaluate(self, eval_dataloader: Any, steps: int = 0) -> None:
        """Log what is logged of an update for the held-out pairs."""
        assert self.evaluated
        updates, reference = self.evaluated
        seen = Counter[str]()
        self.model.eval()
        with torch.no_grad():
            for micro_batches in updates.once():
                for pairs in micro_batches:
                    seen.update(self.step_loss(pairs, reference, len(updates.pairs))[1])
        self.model.train()
        log_evaluation(self, self.strategy.all_reduce(dict(seen)), steps)

    def step_loss(
        self, rows: MicroBatch, known: Sequence[tuple[float, float]], total: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """This micro-batch's share of the loss of an update of ``total`` pairs, such that the mean over the processes
        of the sums over their micro-batches is the loss; and likewise its share of what is logged."""
        pairs = [pair for row in rows for pair in row]
        device = next(self.model.parameters()).device
        sums, tokens = sides(self.model.model, rows, device, self.separate)
        chosen, rejected = sums.view(-1, 2).unbind(1)
        reference = torch.tensor([known[pair.number] for pair in pairs], device=device)
        chosen_reward, rejected_reward = chosen - reference[:, 0], rejected - reference[:, 1]
        weights = torch.tensor([pair.weight for pair in pairs], device=device)
        losses = self.loss_fn(chosen_reward, rejected_reward)
        nll = -chosen / tokens.view(-1, 2)[:, 0]
        share = self.updates.ranks / total
        loss = ((losses + self.args.model.nll_loss_coef * nll) * weights).sum() * share
        with torch.no_grad():
            counted = torch.tensor([float(not pair.filler) for pair in pairs], device=device)
            figures = {
                "loss": losses * weights,
                "acc": (chosen_reward > rejected_reward).float(),
                "chosen_reward": self.beta * chosen_reward,
                "reject_reward": self.beta * rejected_reward,
                "margin": self.beta * (chosen_reward - rejected_reward),
                "chosen_logp": chosen,
                "reject_logp": rejected,
                "kl": -(chosen_reward + rejected_reward) / tokens.view(-1, 2).sum(1),
                "nll": nll,
            }
            return loss, {name: ((value * counted).sum() * share).item() for name, value in figures.items()}


def _tokens(micro_batches: Sequence[MicroBatch]) -> int:
    """Tokens of the sequences of all pairs, those they share counted in each."""
    pairs = (pair for rows in micro_batches for row in rows for pair in row if not pair.filler)
    return sum(len(side) for pair in pairs for side in pair.sequences())
