"""OpenRLHF's DPOTrainer with the bookkeeping of its SFTTrainer.

The loss is plain DPO (Setlur et al. 2024, equation 5; Rafailov et al. 2023): per-step DPO differs only in its pairs.
What is written anew is the loop, because OpenRLHF 0.11.2's counts an epoch in whole updates and so resumes at the
wrong row (dpo_trainer.py:123-125, pull request 1350).
"""

from __future__ import annotations

from typing import Any

import torch
from openrlhf.trainer.dpo_trainer import DPOTrainer
from tqdm import tqdm


class StepDPOTrainer(DPOTrainer):
    """Batches are those of :class:`openrlhf_negdata.datasets.tokens.StepPairDataset`."""

    def fit(self, args: Any, consumed_samples: int = 0, num_update_steps_per_epoch: int | None = None) -> None:
        """Train for ``args.train.max_epochs`` epochs, from row ``consumed_samples`` of the whole run on.

        Logged a micro-batch: loss, accuracy, implicit rewards (beta times the log-ratio to the reference) of both
        sides, and the summed log-probabilities of both sides under the policy, whose joint fall is DPO's known
        failure.
        """
        accumulated = self.strategy.accumulated_gradient
        if args.ckpt.save_steps == -1:
            args.ckpt.save_steps = float("inf")
        args.eval.steps = float("inf")
        rows_per_micro_batch = args.train.batch_size // accumulated
        start_epoch, consumed_in_epoch = divmod(consumed_samples, len(self.train_dataloader) * rows_per_micro_batch)
        micro_step = consumed_samples // rows_per_micro_batch

        self.model.train()
        self.ref_model.eval()
        device = next(self.model.parameters()).device
        for epoch in range(start_epoch, self.epochs):
            self.train_dataloader.sampler.set_epoch(epoch, consumed_in_epoch if epoch == start_epoch else 0)
            bar = tqdm(
                self.train_dataloader, desc=f"epoch {epoch + 1}/{self.epochs}", disable=not self.strategy.is_rank_0()
            )
            for chosen_ids, chosen_mask, rejected_ids, rejected_mask, prompt_lengths in bar:
                sides = [side.to(device) for side in (chosen_ids, chosen_mask, rejected_ids, rejected_mask)]
                chosen, rejected, aux_loss, nll = self.concatenated_forward(self.model, *sides, prompt_lengths)
                with torch.no_grad():
                    reference = self.concatenated_forward(self.ref_model, *sides, prompt_lengths)
                preference_loss, chosen_reward, rejected_reward = self.loss_fn(chosen, rejected, *reference[:2])
                loss = preference_loss
                if self.aux_loss:
                    loss = loss + aux_loss * args.model.aux_loss_coef
                if self.nll_loss:
                    loss = loss + nll * args.model.nll_loss_coef
                self.strategy.backward(loss, self.model, self.optimizer)
                self.strategy.optimizer_step(self.optimizer, self.model, self.scheduler)
                micro_step += 1

                logs = self.strategy.all_reduce(
                    {
                        "loss": preference_loss.item(),
                        "acc": (chosen_reward > rejected_reward).float().mean().item(),
                        "chosen_reward": chosen_reward.mean().item(),
                        "reject_reward": rejected_reward.mean().item(),
                        "chosen_logp": chosen.mean().item(),
                        "reject_logp": rejected.mean().item(),
                        "nll": nll.item(),
                        "grad_norm": self.strategy.get_grad_norm(self.model),
                    }
                )
                logs["lr"] = self.scheduler.get_last_lr()[0]
                bar.set_postfix({key: f"{value:.3g}" for key, value in logs.items()}, refresh=False)
                if micro_step % accumulated == 0:
                    client_states = {"consumed_samples": micro_step * rows_per_micro_batch}
                    self.save_logs_and_checkpoints(args, micro_step // accumulated, bar, logs, client_states)
        if self._wandb is not None and self.strategy.is_rank_0():
            self._wandb.finish()
        if self._tensorboard is not None and self.strategy.is_rank_0():
            self._tensorboard.close()
