"""The model that is trained, its optimizer and its schedule."""

from __future__ import annotations

import itertools
from typing import Any

from openrlhf_negdata import models


def load_actor(args: Any, strategy: Any, name: str, for_training: bool) -> Any:
    """OpenRLHF's Actor around the model called ``name``; LoRA and checkpointing only where it is trained."""
    from openrlhf.models import Actor

    lora = args.ds.lora
    actor = Actor(
        str(models.resolve(name)),
        attn_implementation=args.ds.attn_implementation,
        experts_implementation=args.ds.experts_implementation,
        param_dtype=args.ds.param_dtype,
        load_in_4bit=args.ds.load_in_4bit,
        lora_rank=lora.rank if for_training else 0,
        lora_alpha=lora.alpha,
        target_modules=lora.target_modules,
        lora_dropout=lora.dropout,
        ds_config=strategy.get_ds_train_config() if for_training else strategy.get_ds_eval_config(args.ref.offload),
        packing_samples=getattr(args.ds, "packing_samples", False),
        use_liger_kernel=args.ds.use_liger_kernel,
    )
    if for_training and args.model.gradient_checkpointing_enable:
        actor.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": args.model.gradient_checkpointing_reentrant}
        )
    # What OpenRLHF's strategy looks up when it prepares a model that is not trained (cli/train_dpo.py:52).
    actor._offload = not for_training and args.ref.offload
    return actor


def optimizer_config(args: Any, updates: int) -> dict[str, Any]:
    """What ``strategy.prepare`` wants, for a schedule of so many ``updates``: those that are made, across epochs.
    (train_dpo.py:126 floors them epoch by epoch, so that its learning rate rises again at the end.)"""
    return {
        "optim": args.optim,
        "muon": vars(args.muon),
        "adam": vars(args.adam),
        "lr_scheduler": args.lr_scheduler,
        "lr_warmup_ratio": args.lr_warmup_ratio,
        "min_lr_ratio": args.min_lr_ratio,
        "max_norm": args.max_norm,
        "scheduler_steps": updates,
    }


def prepare(args: Any, strategy: Any, model: Any, updates: int) -> Any:
    """``strategy.prepare`` of the trained model, for so many ``updates``: model, optimizer, scheduler.

    At ZeRO stage 0 DeepSpeed allocates the optimizer's state by an update with gradients of zero (runtime/fp16/
    fused_optimizer.py:128, unfused_optimizer.py:420). It decays the weights, and it counts, so that Adam's bias
    correction would be one update ahead of what it is at stages 1 to 3; here it is taken back. In fp32 it wraps no
    optimizer and makes no such update.
    """
    model, optimizer, scheduler = strategy.prepare((model, optimizer_config(args, updates)))
    if args.ds.zero_stage != 0:
        return model, optimizer, scheduler
    if args.ds.param_dtype == "fp32":
        _keep_norm(model.model)
    else:
        import torch

        flat = hasattr(optimizer, "fp32_groups_flat")
        low = optimizer.fp16_groups_flat if flat else itertools.chain(*optimizer.fp16_groups)
        full = optimizer.fp32_groups_flat if flat else itertools.chain(*optimizer.fp32_groups)
        with torch.no_grad():
            for rounded, weights in zip(low, full, strict=True):
                weights.copy_(rounded)
        for state in optimizer.optimizer.state.values():
            if "step" in state:
                state["step"] = 0
    return model, optimizer, scheduler


def _keep_norm(engine: Any) -> None:
    """At ZeRO stage 0 DeepSpeed clips gradients in fp32 and forgets their norm (runtime/engine.py:3433), which it
    tells at the other stages and in bf16, clipped or not."""
    import torch

    limit = engine.gradient_clipping() or float("inf")

    def clip() -> None:
        engine.optimizer._global_grad_norm = torch.nn.utils.clip_grad_norm_(engine.module.parameters(), limit)

    engine.gradient_clipping, engine.clip_fp32_gradients = lambda: limit, clip
