"""The loop of our trainers, in place of OpenRLHF's: over updates of any number of micro-batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from openrlhf_negdata.trainers import outputs
from openrlhf_negdata.trainers.metrics import Metrics, under_way
from openrlhf_negdata.trainers.updates import Updates


class Loop:
    """Mixed into a trainer of OpenRLHF's, which brings the logs of an update and the checkpoints
    (save_logs_and_checkpoints).

    A trainer says what the loss of a micro-batch is (``step_loss``), of what the loss of an update is the mean
    (``total``), and what sums over micro-batches mean (``means``).
    """

    updates: Updates[Any]
    #: What the numbers of ``updates`` stand for; the trainer knows what it is.
    data: Any
    #: Both of a held-out set.
    evaluated: tuple[Updates[Any], Any] | None
    #: The figure of a held-out set by which a model is the best, and whether more is better.
    best: tuple[str, bool] = ("loss", False)

    # What OpenRLHF's trainers bring.
    strategy: Any
    model: Any
    optimizer: Any
    scheduler: Any
    tokenizer: Any
    _wandb: Any
    _tensorboard: Any

    def step_loss(self, micro_batch: Any, data: Any, total: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This micro-batch's share of the loss of an update of ``total``, such that the mean over the processes of the
        sums over their micro-batches is the loss; and sums of its figures, of shape (figures,)."""
        raise NotImplementedError

    def total(self, items: Sequence[Any], data: Any) -> int:
        raise NotImplementedError

    def tokens(self, items: Sequence[Any], data: Any) -> int:
        """The tokens that an update trains on, over all processes."""
        raise NotImplementedError

    def means(self, sums: list[float]) -> dict[str, float]:
        raise NotImplementedError

    def fit(self, args: Any, consumed_samples: int = 0, num_update_steps_per_epoch: int | None = None) -> None:
        """Train on the updates that are left after ``consumed_samples`` rows or pairs. Held-out rows are evaluated
        every ``--eval.steps`` updates, and after the last one in any case."""
        if args.ckpt.save_steps == -1:
            args.ckpt.save_steps = float("inf")
        per_epoch = max(1, len(self.updates) // self.updates.epochs)
        every = per_epoch if args.eval.steps == -1 else args.eval.steps
        done = consumed_samples // args.train.batch_size
        metrics = Metrics(under_way(Path(args.ckpt.output_dir)), done) if self.strategy.is_rank_0() else None
        self.model.train()
        bar = tqdm(
            self.updates.after(done), desc="update", initial=done, total=len(self.updates),
            disable=not self.strategy.is_rank_0(),
        )  # fmt: skip
        for step, items in enumerate(bar, start=done + 1):
            begin = time.monotonic()
            logs = self.means(self._update(items))
            tokens, seconds = self.tokens(items, self.data), time.monotonic() - begin
            logs["tokens_per_second"] = tokens / seconds
            logs |= {"grad_norm": self.strategy.get_grad_norm(self.model), "lr": self.scheduler.get_last_lr()[0]}
            bar.set_postfix({key: f"{value:.3g}" for key, value in logs.items()}, refresh=False)
            # Before the checkpoint: a run that goes on from that has done this.
            held_out: dict[str, float] = {}
            if self.evaluated and (step % every == 0 or step == len(self.updates)):
                held_out = self.evaluate(None, step)
            if metrics:
                row = {**logs, "tokens": tokens, "seconds": seconds}
                row |= {f"eval/{name}": value for name, value in held_out.items()}
                metrics.add(step, row, last=step % args.ckpt.save_steps == 0 or step == len(self.updates))
            if held_out:
                self._keep_best(args, step, held_out)
            if args.ckpt.save_hf and step % args.ckpt.save_steps == 0:
                outputs.keep(args, self.strategy, self.model, self.tokenizer, f"global_step{step}", {"update": step})
            self.save_logs_and_checkpoints(  # type: ignore[attr-defined]
                args, step, bar, logs, {"consumed_samples": step * args.train.batch_size}
            )
        self._close()

    def _update(self, items: Sequence[Any]) -> list[float]:
        """Make an update; returns the sums of its figures over all processes."""
        engine = self.model.model
        total = self.total(items, self.data)
        micro_batches = self.updates.share(list(items))
        seen = []
        for number, micro_batch in enumerate(micro_batches, start=1):
            loss, figures = self.step_loss(micro_batch, self.data, total)
            engine.set_gradient_accumulation_boundary(number == len(micro_batches))
            # DeepSpeed divides by the micro-batches it was told of, whatever their number is.
            self.strategy.backward(loss * engine.gradient_accumulation_steps(), self.model, self.optimizer)
            self.strategy.optimizer_step(self.optimizer, self.model, self.scheduler)
            seen.append(figures)
        return self._summed(seen)

    def evaluate(self, eval_dataloader: Any, steps: int = 0) -> dict[str, float]:
        """Log what is logged of an update for the held-out rows, each counted once."""
        assert self.evaluated
        updates, data = self.evaluated
        self.model.eval()
        with torch.no_grad():
            seen = [
                self.step_loss(micro_batch, data, 1)[1]
                for items in updates.once()
                for micro_batch in updates.share(items)
            ]
        self.model.train()
        figures = self.means(self._summed(seen))
        logs = {f"eval/{name}": value for name, value in figures.items()}
        if self._wandb is not None and self.strategy.is_rank_0():
            self._wandb.log(logs | {"eval/global_step": steps})
        elif self._tensorboard is not None and self.strategy.is_rank_0():
            for name, value in logs.items():
                self._tensorboard.add_scalar(name, value, steps)
        self.strategy.print(f"update {steps}: " + ", ".join(f"{name} {value:.4g}" for name, value in logs.items()))
        return figures

    def _summed(self, seen: list[torch.Tensor]) -> list[float]:
        """Over micro-batches and processes: the one place that waits for the device."""
        return self.strategy.all_reduce(torch.stack(seen).sum(0), "sum").tolist()

    def _keep_best(self, args: Any, step: int, figures: dict[str, float]) -> None:
        if args.ckpt.keep_best:
            name, more = self.best
            reached = {"update": step, "figure": name, "value": figures[name], "more_is_better": more}
            outputs.keep_best(args, self.strategy, self.model, self.tokenizer, f"best_global_step{step}", reached)

    def _close(self) -> None:
        """End the run of W&B or TensorBoard."""
        if self._wandb is not None and self.strategy.is_rank_0():
            self._wandb.finish()
        if self._tensorboard is not None and self.strategy.is_rank_0():
            self._tensorboard.close()
