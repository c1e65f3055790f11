"""OpenRLHF's SFTTrainer with a weight a token: advantage-weighted training (Setlur et al. 2024, equation 4).

The loop is written anew, because SFTTrainer's knows one mask and takes it for both what is counted and what is learned
(sft_trainer.py:154). Here the 0/1 mask says which tokens are counted, and weights say how much each is learned.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import torch
from openrlhf.models.loss import aggregate_loss
from openrlhf.trainer.sft_trainer import SFTTrainer
from openrlhf.utils.loss_utils import iter_grad_accum_global_norm
from tqdm import tqdm

from openrlhf_negdata.trainers.logs import close, log_evaluation


class AdvantageWeightedTrainer(SFTTrainer):
    """Batches are those of :class:`openrlhf_negdata.datasets.tokens.WeightedDataset`."""

    def fit(self, args: Any, consumed_samples: int = 0, num_update_steps_per_epoch: int | None = None) -> None:
        """Train for ``args.train.max_epochs`` epochs, from row ``consumed_samples`` of the whole run on.

        The loss of an update is ``- sum_t w_t log pi(y_t | y_<t) / T`` with T the tokens of all responses in it, over
        all micro-batches and processes: with weights of 1, SFT's. Logged: that; the same without weights (``nll``);
        ``mean_weight``; ``effective``, the share of the tokens that would do the same with equal weights,
        ``(sum |w|)^2 / (T sum w^2)``; ``tokens_per_second``; and once, of the whole set, a histogram of its weights.
        """
        accumulated = self.strategy.accumulated_gradient
        if args.ckpt.save_steps == -1:
            args.ckpt.save_steps = float("inf")
        if args.eval.steps == -1:
            args.eval.steps = max(1, len(self.train_dataloader) // accumulated)
        rows_per_micro_batch = args.train.batch_size // accumulated
        start_epoch, consumed_in_epoch = divmod(consumed_samples, len(self.train_dataloader) * rows_per_micro_batch)

        self._log_weights(consumed_samples // args.train.batch_size)
        self.model.train()
        window: list[Any] = []
        for epoch in range(start_epoch, self.epochs):
            self.train_dataloader.sampler.set_epoch(epoch, consumed_in_epoch if epoch == start_epoch else 0)
            bar = tqdm(
                self.train_dataloader, desc=f"epoch {epoch + 1}/{self.epochs}", disable=not self.strategy.is_rank_0()
            )
            begin = time.monotonic()
            for loaded in bar:
                # An update may span two epochs; one that the last epoch leaves incomplete is not made.
                window.append(loaded)
                if len(window) < accumulated:
                    continue
                sums = Counter[str]()
                for batch, norm in iter_grad_accum_global_norm(window, self.strategy, accumulated, _loss_mask):
                    log_probs, counted, weights, output = self._forward(batch)
                    loss = aggregate_loss(-log_probs * weights, counted, **norm)
                    sums.update(_sums(log_probs, counted, weights))
                    if self.aux_loss:
                        loss = loss + output.aux_loss * args.model.aux_loss_coef
                    self.strategy.backward(loss, self.model, self.optimizer)
                    self.strategy.optimizer_step(self.optimizer, self.model, self.scheduler)
                    consumed_samples += rows_per_micro_batch
                window.clear()
                sums = self.strategy.all_reduce(dict(sums), "sum")
                logs = _means(sums) | {"tokens_per_second": sums["tokens"] / (time.monotonic() - begin)}
                logs |= {"grad_norm": self.strategy.get_grad_norm(self.model), "lr": self.scheduler.get_last_lr()[0]}
                bar.set_postfix({key: f"{value:.3g}" for key, value in logs.items()}, refresh=False)
                client_states = {"consumed_samples": consumed_samples}
                self.save_logs_and_checkpoints(
                    args, consumed_samples // args.train.batch_size, bar, logs, client_states
                )
                begin = time.monotonic()
        close(self)

    def evaluate(self, eval_dataloader: Any, steps: int = 0) -> None:
        """Log loss and NLL a token of held-out rows."""
        sums = Counter[str]()
        self.model.eval()
        with torch.no_grad():
            for batch in eval_dataloader:
                sums.update(_sums(*self._forward(batch)[:3]))
        self.model.train()
        means = _means(self.strategy.all_reduce(dict(sums), "sum"))
        log_evaluation(self, {name: means[name] for name in ("loss", "nll")}, steps)

    def _forward(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
        """Log-probabilities, 0/1 mask and weights of the tokens but for the first, all of shape (rows, tokens - 1);
        and the model's output."""
        device = next(self.model.parameters()).device
        ids, mask, loss_mask, weights = (part.to(device).squeeze(1) for part in batch)
        log_probs, output = self.model(
            ids,
            attention_mask=mask,
            return_output=True,
            return_logprobs=True,
            ring_attn_group=self.strategy.ring_attn_group,
        )
        return log_probs, loss_mask[:, :-1], weights[:, :-1], output

    def _log_weights(self, step: int) -> None:
        """Of the set: each token's weight."""
        weights = self.train_dataloader.dataset.token_weights()
        # torch.quantile takes no more than 2^24 values, which a large set has.
        quartiles = ", ".join(f"{value:.3g}" for value in np.quantile(weights.numpy(), (0, 0.25, 0.5, 0.75, 1)))
        negative = (weights < 0).double().mean().item()
        self.strategy.print(f"weights of tokens, quartiles: {quartiles}; {100 * negative:.1f} % are negative")
        if self._wandb is not None and self.strategy.is_rank_0():
            self._wandb.log({"train/weights": self._wandb.Histogram(weights.numpy()), "train/global_step": step})
        elif self._tensorboard is not None and self.strategy.is_rank_0():
            self._tensorboard.add_histogram("train/weights", weights, step)


def _loss_mask(batch: Any) -> torch.Tensor:
    return batch[2].squeeze(1)[:, :-1]


def _sums(log_probs: torch.Tensor, counted: torch.Tensor, weights: torch.Tensor) -> dict[str, float]:
    """Sums over the counted tokens; weights of others are 0."""
    nll = -log_probs.detach() * counted
    parts = {"loss": nll * weights, "nll": nll, "weight": weights, "size": weights.abs(), "square": weights**2}
    return {name: part.sum().item() for name, part in (parts | {"tokens": counted}).items()}


def _means(sums: dict[str, float]) -> dict[str, float]:
    means = {name: sums[name] / sums["tokens"] for name in ("loss", "nll")}
    effective = sums["size"] ** 2 / (sums["tokens"] * sums["square"]) if sums["square"] else 0.0
    return means | {"mean_weight": sums["weight"] / sums["tokens"], "effective": effective}
