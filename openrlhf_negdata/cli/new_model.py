"""Make an untrained small Llama and its word-level tokenizer for a task with a small vocabulary.

It is a real model folder: transformers, DeepSpeed and vLLM load it as they would a 7B one. Equal arguments give equal
weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.models import CPU_HEAD_SIZES
from openrlhf_negdata.tasks import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, help="whose vocabulary: number_walk, running_value or star_graph")
    parser.add_argument("--width", type=int, default=128, help="hidden size")
    parser.add_argument("--layers", type=int, default=2, help="transformer layers")
    parser.add_argument(
        "--heads", type=int, default=4, help="attention heads; vLLM on CPU needs width / heads of 32 or 64"
    )
    parser.add_argument("--max_len", type=int, default=256, help="longest sequence, in tokens")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
    parser.add_argument("--output", required=True, help="the model folder to write")


def run(args: argparse.Namespace) -> None:
    task = load(args.task)
    if task.words is None:
        raise UserError(f"task {task.name} is in natural language: start from a pre-trained model")
    if args.width % args.heads or args.width // args.heads not in CPU_HEAD_SIZES:
        raise UserError(
            f"--width {args.width} / --heads {args.heads} is no head size vLLM can run on CPU (32, 64, ...)"
        )
    output = Path(args.output)
    if (output / "config.json").is_file():
        print(f"{output} is there already")
        return
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<unk>", "</s>", *task.words]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=args.max_len
    )
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=args.width,
            intermediate_size=4 * args.width,
            num_hidden_layers=args.layers,
            num_attention_heads=args.heads,
            num_key_value_heads=args.heads,
            max_position_embeddings=args.max_len,
            # transformers' 0.02 suits wide models; a narrow one then sits on a plateau for half of its pre-training.
            initializer_range=args.width**-0.5,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        )
    )
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tokenizer.save_pretrained(temporary)
    model.bfloat16().save_pretrained(temporary)
    shutil.rmtree(output, ignore_errors=True)
    os.replace(temporary, output)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(vocabulary)} words in {output}")
