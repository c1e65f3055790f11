"""The flags of the trainers: OpenRLHF 0.11.2's, with its defaults, and ours."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime

from openrlhf_negdata.help import HelpFormatter

_FLAG = "store_true"


def make_parser(name: str, doc: str | None, lr: float, epochs: int) -> argparse.ArgumentParser:
    """The parser of the command line ``name``, with the flags of :func:`add_flags`, and OpenRLHF's defaults of its
    learning rate and epochs."""
    parser = argparse.ArgumentParser(
        prog=name,
        usage=f"{name} --model.model_name_or_path MODEL --data.dataset ROWS --ckpt.output_dir OUT [flags]",
        description=doc,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, lr, epochs)
    return parser


def add_row_flags(parser: argparse.ArgumentParser) -> None:
    """OpenRLHF 0.11.2's flags of trainers whose micro-batches are rows of one sequence each."""
    a = parser.add_argument
    a("--model.aux_loss_coef", type=float, default=0, help="weight of the MoE balancing loss")
    a(
        "--train.micro_batch_size",
        type=int,
        default=8,
        help="rows a process and forward pass: decides memory and speed, never the loss",
    )
    a("--ds.packing_samples", action=_FLAG, help="pack rows without padding (flash-attn, CUDA)")


def add_pair_flags(parser: argparse.ArgumentParser) -> None:
    """Those of step DPO, whose micro-batches are budgets of tokens."""
    a = parser.add_argument
    a(
        "--train.max_tokens_per_gpu",
        type=int,
        default=16192,
        help="tokens a process and forward pass, pads included: decides memory and speed, never the loss",
    )
    a(
        "--train.max_pairs_per_problem",
        type=int,
        default=8,
        help="a problem's pairs are taken in runs of at most so many, spread evenly over an epoch, so that an update "
        "holds many problems",
    )
    a(
        "--train.separate_sequences_enable",
        action="store_true",
        help="each side of a pair in a row of its own, as OpenRLHF does: for attention that takes no mask of ours "
        "(flash_attention_2, sliding windows)",
    )
    a("--ref.model_name_or_path", default=None, help="reference model (default: the starting model)")
    a("--ref.offload", action="store_true", help="keep the reference model in host memory (with --ds.zero_stage 3)")
    a(
        "--ref.log_probs",
        default=None,
        help="parquet file of the reference's log-probabilities, made where they are missing: name one to share it "
        "between runs (default: beside the output, removed with the checkpoints)",
    )
    a("--model.beta", type=float, default=0.1, help="strength of the pull to the reference")
    a("--model.ipo_enable", action="store_true", help="IPO loss (Azar et al. 2023) in place of DPO's")
    a("--model.label_smoothing", type=float, default=0.0, help="conservative DPO: share of flipped labels")
    a(
        "--model.positive_penalty",
        type=float,
        default=0.0,
        help="DPO-Positive: weight of the chosen side's fall below the reference",
    )
    a("--model.nll_loss_coef", type=float, default=0.0, help="weight of the chosen side's mean-token NLL")


def add_flags(parser: argparse.ArgumentParser, lr: float, epochs: int) -> None:
    """OpenRLHF 0.11.2's flags for data, model, optimizer, DeepSpeed, checkpoints and logs, with its defaults but for
    those whose help says otherwise."""
    _add_data(parser, epochs)
    _add_optimizer(parser, lr)
    _add_deepspeed(parser)
    _add_outputs(parser)


def _add_data(parser: argparse.ArgumentParser, epochs: int) -> None:
    """The model and the rows."""
    a = parser.add_argument
    a("--model.model_name_or_path", required=True, help="model folder to start from")
    a("--model.trust_remote_code", action=_FLAG, help="run Python code that the model folder carries")
    a("--model.gradient_checkpointing_enable", action=_FLAG, help="trade compute for memory")
    a("--model.gradient_checkpointing_reentrant", action=_FLAG, help="use re-entrant checkpointing")
    a("--data.dataset", required=True, help="training set: files of `negdata build`, comma-separated")
    a(
        "--data.max_len",
        type=int,
        default=2048,
        help="longest row in tokens; longer ones are dropped and counted (OpenRLHF's DPO: 512, and cuts them)",
    )
    a(
        "--data.max_samples",
        type=int,
        default=sys.maxsize,
        help="use the first this many rows; OpenRLHF leaves out what is beyond a million",
    )
    a("--eval.dataset", default=None, help="held-out rows of the same kind, files, comma-separated")
    a("--eval.steps", type=int, default=-1, help="updates between their evaluations, -1: an epoch's; the last has one")
    a("--train.batch_size", type=int, default=128, help="rows an update, over all processes")
    a("--train.max_epochs", type=int, default=epochs, help="passes over the training set")
    a("--train.seed", type=int, default=42, help="order of the rows, dropout")
    a("--train.full_determinism_enable", action=_FLAG, help="ask torch for deterministic kernels")


def _add_optimizer(parser: argparse.ArgumentParser, lr: float) -> None:
    """The optimizer and its schedule."""
    a = parser.add_argument
    a("--optim", choices=["adam", "muon"], default="adam", help="optimizer")
    a("--adam.lr", type=float, default=lr, help="peak learning rate")
    a("--adam.betas", type=float, nargs=2, default=(0.9, 0.95), help="Adam betas")
    a("--adam.eps", type=float, default=1e-8, help="Adam epsilon")
    a("--adam.weight_decay", type=float, default=0.0, help="decoupled weight decay")
    a("--muon.lr", type=float, default=0.02, help="peak learning rate of Muon's matrices")
    a("--muon.momentum", type=float, default=0.95, help="Muon momentum")
    a("--lr_scheduler", default="cosine_with_min_lr", help="schedule, a name transformers knows")
    a("--lr_warmup_ratio", type=float, default=0.03, help="share of the updates that warm up")
    a("--min_lr_ratio", type=float, default=0.1, help="last learning rate as a share of the peak")
    a("--max_norm", type=float, default=1.0, help="gradient norm to clip at")


def _add_deepspeed(parser: argparse.ArgumentParser) -> None:
    """How a run is computed."""
    a = parser.add_argument
    a("--ds.zero_stage", type=int, default=2, help="DeepSpeed ZeRO stage, 0 to 3")
    a(
        "--ds.param_dtype",
        choices=["bf16", "fp16", "fp32"],
        default=None,
        help="parameter type; the optimizer keeps fp32 copies (default: bf16 with CUDA; without, fp32)",
    )
    a(
        "--ds.attn_implementation",
        default=None,
        help="attention of transformers (with CUDA flash_attention_2, or flex_attention for step DPO; else sdpa)",
    )
    a("--ds.experts_implementation", default=None, help="MoE experts implementation of transformers")
    a("--ds.adam_offload", action=_FLAG, help="keep the optimizer in host memory")
    a("--ds.zpg", type=int, default=1, help="ZeRO++ partition size")
    a("--ds.grad_accum_dtype", default=None, help="type gradients are accumulated in")
    a("--ds.overlap_comm", action=_FLAG, help="overlap communication and backward")
    a("--ds.load_in_4bit", action=_FLAG, help="load the model in 4 bits (with LoRA, CUDA)")
    a("--ds.lora.rank", type=int, default=0, help="LoRA rank; 0 trains every parameter")
    a("--ds.lora.alpha", type=int, default=16, help="LoRA alpha")
    a("--ds.lora.target_modules", nargs="*", default="all-linear", help="modules LoRA adapts")
    a("--ds.lora.dropout", type=float, default=0, help="LoRA dropout")
    a("--ds.use_liger_kernel", action=_FLAG, help="Liger kernels (CUDA)")
    a("--ds.ring_attn_size", type=int, default=1, help="ring attention: 1 alone")
    a("--ds.tensor_parallel_size", type=int, default=1, help="DeepSpeed tensor parallelism: 1 alone")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    """The model, checkpoints, logs."""
    a = parser.add_argument
    a("--ckpt.output_dir", required=True, help="folder the trained model is written to, whole or not at all")
    a("--ckpt.path", default=None, help="folder of resumable checkpoints (default: .<output_dir>.ckpt beside it)")
    a("--ckpt.save_steps", type=int, default=-1, help="updates between checkpoints; -1: none")
    a(
        "--ckpt.save_hf",
        action=_FLAG,
        help="with each checkpoint, the model as it is then: in OUT.models/global_stepN, which stays",
    )
    a(
        "--ckpt.keep_best",
        action=_FLAG,
        help="keep the model that does best on --eval.dataset, in OUT.models/best_global_stepN: step DPO by the "
        "margin, others by the loss",
    )
    a(
        "--ckpt.max_num",
        type=int,
        default=3,
        help="checkpoints kept, at least 2: the last good one stays while the next is written",
    )
    a("--ckpt.max_mem", type=int, default=int(1e8), help="GB of checkpoints kept, the one being written not counted")
    a("--logger.logging_steps", type=int, default=1, help="updates between logged figures")
    a("--logger.tensorboard_dir", default=None, help="TensorBoard folder")
    a("--logger.wandb.key", default=None, help="Weights & Biases key; none: not used")
    a("--logger.wandb.org", default=None, help="W&B entity")
    a("--logger.wandb.group", default=None, help="W&B group")
    a("--logger.wandb.project", default="openrlhf_negdata", help="W&B project")
    a("--logger.wandb.run_name", default=datetime.now().strftime("exp_%m%dT%H:%M"), help="name of the run")
    a("--local_rank", type=int, default=-1, help="set by the DeepSpeed launcher")
