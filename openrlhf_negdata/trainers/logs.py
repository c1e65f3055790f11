"""What our trainers share in logging, beside OpenRLHF's own of an update (save_logs_and_checkpoints)."""

from __future__ import annotations

from typing import Any


def log_evaluation(trainer: Any, figures: dict[str, float], step: int) -> None:
    """Log figures of held-out rows after update ``step``, to W&B or TensorBoard as OpenRLHF does, and print them."""
    logs = {f"eval/{name}": value for name, value in figures.items()}
    if trainer._wandb is not None and trainer.strategy.is_rank_0():
        trainer._wandb.log(logs | {"eval/global_step": step})
    elif trainer._tensorboard is not None and trainer.strategy.is_rank_0():
        for name, value in logs.items():
            trainer._tensorboard.add_scalar(name, value, step)
    trainer.strategy.print(f"update {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in logs.items()))


def close(trainer: Any) -> None:
    """End the run of W&B or TensorBoard."""
    if trainer._wandb is not None and trainer.strategy.is_rank_0():
        trainer._wandb.finish()
    if trainer._tensorboard is not None and trainer.strategy.is_rank_0():
        trainer._tensorboard.close()
