"""OpenRLHF's SFTTrainer with a weight a token: advantage-weighted training (Setlur et al. 2024, equation 4).

The loop is written anew, because SFTTrainer's knows one mask and takes it for both what is counted and what is learned
(sft_trainer.py:154). Here the 0/1 mask says which tokens are counted, and weights say how much each is learned.
"""

from __future__ import annotations

from typing import Any

import torch
from openrlhf.models.loss import aggregate_loss
from openrlhf.trainer.sft_trainer import SFTTrainer
from openrlhf.utils.loss_utils import iter_grad_accum_global_norm
from tqdm import tqdm


class AdvantageWeightedTrainer(SFTTrainer):
    """Batches are those of :class:`openrlhf_negdata.datasets.tokens.WeightedDataset`."""

    def fit(self, args: Any, consumed_samples: int = 0, num_update_steps_per_epoch: int | None = None) -> None:
        """Train for ``args.train.max_epochs`` epochs, from row ``consumed_samples`` of the whole run on.

        The loss of an update is ``- sum_t w_t log pi(y_t | y_<t) / T`` with T the tokens of all responses in it, over
        all micro-batches and processes: with weights of 1, SFT's. Logged: that, the same without weights (``nll``),
        and the mean weight.
        """
        accumulated = self.strategy.accumulated_gradient
        if args.ckpt.save_steps == -1:
            args.ckpt.save_steps = float("inf")
        args.eval.steps = float("inf")
        rows_per_micro_batch = args.train.batch_size // accumulated
        start_epoch, consumed_in_epoch = divmod(consumed_samples, len(self.train_dataloader) * rows_per_micro_batch)

        self.model.train()
        device = next(self.model.parameters()).device
        window: list[Any] = []
        for epoch in range(start_epoch, self.epochs):
            self.train_dataloader.sampler.set_epoch(epoch, consumed_in_epoch if epoch == start_epoch else 0)
            bar = tqdm(
                self.train_dataloader, desc=f"epoch {epoch + 1}/{self.epochs}", disable=not self.strategy.is_rank_0()
            )
            for loaded in bar:
                # An update may span two epochs; one that the last epoch leaves incomplete is not made.
                window.append(loaded)
                if len(window) < accumulated:
                    continue
                seen = {"loss": 0.0, "nll": 0.0, "mean_weight": 0.0}
                for batch, norm in iter_grad_accum_global_norm(window, self.strategy, accumulated, _loss_mask):
                    ids, mask, loss_mask, weights = (part.to(device).squeeze(1) for part in batch)
                    log_probs, output = self.model(
                        ids,
                        attention_mask=mask,
                        return_output=True,
                        return_logprobs=True,
                        ring_attn_group=self.strategy.ring_attn_group,
                    )
                    counted, weights = loss_mask[:, :-1], weights[:, :-1]
                    loss = aggregate_loss(-log_probs * weights, counted, **norm)
                    with torch.no_grad():
                        seen["loss"] += loss.item() / accumulated
                        seen["nll"] += aggregate_loss(-log_probs, counted, **norm).item() / accumulated
                        seen["mean_weight"] += aggregate_loss(weights, counted, **norm).item() / accumulated
                    if self.aux_loss:
                        loss = loss + output.aux_loss * args.model.aux_loss_coef
                    self.strategy.backward(loss, self.model, self.optimizer)
                    self.strategy.optimizer_step(self.optimizer, self.model, self.scheduler)
                    consumed_samples += rows_per_micro_batch
                window.clear()
                logs = self.strategy.all_reduce(seen | {"grad_norm": self.strategy.get_grad_norm(self.model)})
                logs["lr"] = self.scheduler.get_last_lr()[0]
                bar.set_postfix({key: f"{value:.3g}" for key, value in logs.items()}, refresh=False)
                client_states = {"consumed_samples": consumed_samples}
                step = consumed_samples // args.train.batch_size
                self.save_logs_and_checkpoints(args, step, bar, logs, client_states)
        if self._wandb is not None and self.strategy.is_rank_0():
            self._wandb.finish()
        if self._tensorboard is not None and self.strategy.is_rank_0():
            self._tensorboard.close()


def _loss_mask(batch: Any) -> torch.Tensor:
    return batch[2].squeeze(1)[:, :-1]
