"""Training on rows of one sequence each: supervised fine-tuning, and advantage-weighted training (Setlur et al. 2024,
equation 4), which is that with a weight a token.

The loop is not SFTTrainer's. That knows one mask and takes it for both what is counted and what is learned
(sft_trainer.py:154), leaves out the rows at an epoch's end that fill no micro-batch, and counts some held-out rows
twice where processes or micro-batches do not divide them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openrlhf.models.loss import aggregate_loss
from openrlhf.trainer.sft_trainer import SFTTrainer
from openrlhf.utils import get_tokenizer

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.trainers import checkpoints, outputs, processes
from openrlhf_negdata.trainers.loop import Loop
from openrlhf_negdata.trainers.model import load_actor, prepare
from openrlhf_negdata.trainers.tokens import TokenSFTDataset, WeightedDataset, read_rows
from openrlhf_negdata.trainers.updates import RowUpdates

#: Sums over the counted tokens; weights of others are 0.
FIGURES = ("loss", "nll", "weight", "size", "square", "tokens")


class RowTrainer(Loop, SFTTrainer):
    """The loss of an update is ``- sum_t w_t log pi(y_t | y_<t) / T`` with T the tokens of all responses in it, over
    all micro-batches and processes; of a :class:`TokenSFTDataset`, whose weights are 1, that is SFT's."""

    def __init__(
        self,
        updates: RowUpdates,
        data: TokenSFTDataset,
        evaluated: tuple[RowUpdates, TokenSFTDataset] | None = None,
        **host: Any,
    ) -> None:
        self.updates, self.data, self.evaluated = updates, data, evaluated
        super().__init__(train_dataloader=None, eval_dataloader=None, **host)

    def fit(self, args: Any, consumed_samples: int = 0, num_update_steps_per_epoch: int | None = None) -> None:
        """Logged: the loss; of a :class:`WeightedDataset` also the same without weights (``nll``); ``mean_weight``;
        ``effective``, the share of the tokens that would do the same with equal weights,
        ``(sum |w|)^2 / (T sum w^2)``; and once, of the whole set, a histogram of its weights."""
        if isinstance(self.data, WeightedDataset):
            self._log_weights(consumed_samples // args.train.batch_size)
        super().fit(args, consumed_samples)

    def step_loss(
        self, micro_batch: list[int], data: TokenSFTDataset, total: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs, counted, weights, output = self._forward(micro_batch, data)
        loss = aggregate_loss(-log_probs * weights, counted, dp_size=self.updates.ranks, batch_num_tokens=total)
        if self.aux_loss:
            share = len(micro_batch) * self.updates.ranks / self.updates.batch_size
            loss = loss + output.aux_loss * self.args.model.aux_loss_coef * share
        return loss, sums(log_probs, counted, weights)

    def _forward(self, micro_batch: list[int], data: TokenSFTDataset) -> tuple[Any, ...]:
        """Log-probabilities, 0/1 mask and weights of the tokens but for the first, all of shape (rows, tokens - 1);
        and the model's output. Of a filler, the first row with nothing counted."""
        device = next(self.model.parameters()).device
        parts = data.collate_fn([data[row] for row in micro_batch or [0]])
        ids, mask, loss_mask, *weights = (part.to(device) for part in parts)
        if not micro_batch:
            loss_mask, weights = torch.zeros_like(loss_mask), []
        log_probs, output = self.model(
            ids,
            attention_mask=mask,
            return_output=True,
            return_logprobs=True,
            ring_attn_group=self.strategy.ring_attn_group,
        )
        return log_probs, loss_mask[:, :-1], (weights[0] if weights else loss_mask)[:, :-1], output

    def total(self, items: Iterable[int], data: TokenSFTDataset) -> int:
        return data.tokens(items)

    tokens = total

    def means(self, sums: list[float]) -> dict[str, float]:
        means = means_of(sums)
        return means if isinstance(self.data, WeightedDataset) else {"loss": means["loss"]}

    def _log_weights(self, step: int) -> None:
        """Of the set: each token's weight."""
        weights = self.data.token_weights()
        # torch.quantile takes no more than 2^24 values, which a large set has.
        quartiles = ", ".join(f"{value:.3g}" for value in np.quantile(weights.numpy(), (0, 0.25, 0.5, 0.75, 1)))
        negative = (weights < 0).double().mean().item()
        self.strategy.print(f"weights of tokens, quartiles: {quartiles}; {100 * negative:.1f} % are negative")
        if self._wandb is not None and self.strategy.is_rank_0():
            self._wandb.log({"train/weights": self._wandb.Histogram(weights.numpy()), "train/global_step": step})
        elif self._tensorboard is not None and self.strategy.is_rank_0():
            self._tensorboard.add_histogram("train/weights", weights, step)


def sums(log_probs: torch.Tensor, counted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The FIGURES of a micro-batch."""
    nll = -log_probs.detach() * counted
    parts = (nll * weights, nll, weights, weights.abs(), weights**2, counted)
    return torch.stack([part.sum(dtype=torch.float64) for part in parts])


def means_of(sums: list[float]) -> dict[str, float]:
    of = dict(zip(FIGURES, sums, strict=True))
    effective = of["size"] ** 2 / (of["tokens"] * of["square"]) if of["square"] else 0.0
    means = {name: of[name] / of["tokens"] for name in ("loss", "nll")}
    return means | {"mean_weight": of["weight"] / of["tokens"], "effective": effective}


def train(args: Any, strategy: Any, weighted: bool) -> None:
    """Train on the rows of ``--data.dataset`` and write the model."""
    model = load_actor(args, strategy, args.model.model_name_or_path, for_training=True)
    tokenizer = get_tokenizer(args.model.model_name_or_path, model.model, "right", strategy)
    folder = Path(args.ckpt.output_dir).parent

    def updates_of(path: str, most: int | None) -> tuple[RowUpdates, TokenSFTDataset]:
        rows = read_rows(path, ("prompt_ids", "response_ids"), model, weighted)
        kind = WeightedDataset if weighted else TokenSFTDataset
        data = kind(itertools.islice(rows, most), tokenizer, args.data.max_len, folder)
        strategy.print(f"{path}: {len(data)} rows kept, dropped: {dict(data.dropped) or 'none'}")
        settings = args.train
        sizes = (settings.batch_size, settings.max_epochs, settings.seed, settings.micro_batch_size)
        return RowUpdates(len(data), *sizes, **processes.place(strategy)), data

    updates, data = updates_of(args.data.dataset, args.data.max_samples)
    evaluated = updates_of(args.eval.dataset, None) if args.eval.dataset else None
    if not len(updates):
        raise UserError(f"{len(data)} rows are less than one update of --train.batch_size {args.train.batch_size}")
    model, optimizer, scheduler = prepare(args, strategy, model, len(updates))
    consumed_samples = checkpoints.load(args, strategy, model)
    checkpoints.claim(args)
    trainer = RowTrainer(
        updates,
        data,
        evaluated,
        model=model,
        strategy=strategy,
        optim=optimizer,
        scheduler=scheduler,
        max_norm=args.max_norm,
        batch_size=args.train.batch_size,
        max_epochs=args.train.max_epochs,
        tokenizer=tokenizer,
    )
    trainer.fit(args, consumed_samples)
    outputs.save(args, strategy, model, tokenizer)
