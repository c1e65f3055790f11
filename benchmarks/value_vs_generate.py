"""Tokens a second of `negdata value`, against those of vLLM's own `LLM.generate` on the very same prefix requests.

    python benchmarks/value_vs_generate.py        # after `make quickstart`, whose answers and model it uses

`value` also cuts answers into steps, grades every rollout and writes the store; `LLM.generate` is given all requests
at once, as token ids with equal seeds, and only generates. Engine start counts on neither side. The two run in turn,
as shared machines change their speed from minute to minute; the last line is tokens a second of value / of
LLM.generate, by the medians. Aim: at least 0.9.

The quickstart's model has half a million parameters, so that little hides what `value` does beside generating. With
one of 8.4 million, from the quickstart's data:

    negdata new_model --task running_value --width 256 --heads 4 --layers 8 --output bigger/new
    negdata launch --num_processes 1 openrlhf_negdata.cli.train_sft --model.model_name_or_path bigger/new
        --data.dataset runs/quickstart/data/syn.jsonl --data.max_len 64 --ds.zero_stage 0 --adam.lr 1e-3
        --train.batch_size 32 --train.micro_batch_size 32 --train.max_epochs 3 --ckpt.output_dir bigger/sft
    head -400 runs/quickstart/data/syn.problems.jsonl > bigger/problems.jsonl
    negdata sample --task running_value --problems bigger/problems.jsonl --model.model_name_or_path bigger/sft
        --rollout.n_samples_per_prompt 8 --rollout.temperature 1.0 --output bigger/traces
    negdata grade --input bigger/traces --output bigger/graded
    python benchmarks/value_vs_generate.py --input bigger/graded --model bigger/sft --problems 120
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from prefixes import first_problems, parser, prefixes, start_vllm, value

from openrlhf_negdata.rollouts.engines import Sampling, sampling_params


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--repeats", type=int, default=3, help="times each side runs, in turn")
    args = flags.parse_args()
    ours, theirs = [], []  # seconds
    llm: Any = None
    with tempfile.TemporaryDirectory() as folder:
        graded = first_problems(args.input, args.problems, Path(folder) / "graded")
        sampling = Sampling(**graded.manifest["settings"]["input"]["sampling"])
        for repeat in range(args.repeats):
            run, speed = value(graded, args.model, args.n_rollouts, Path(folder) / f"values{repeat}")
            ours.append(speed["seconds"])
            if llm is None:  # every run rolls out the same prefixes
                asked = prefixes(run)
                params = [sampling_params(sampling, args.n_rollouts, one["left"], one["seed"]) for one in asked]
                # Idle while the other side runs, it uses no processor.
                llm = start_vllm(args.model, max(len(one["ids"]) + one["left"] for one in asked))
            # Each repeat starts with an empty prefix cache, as a new run of `value` does.
            llm.reset_prefix_cache()
            begin = time.monotonic()
            outputs = llm.generate([{"prompt_token_ids": one["ids"]} for one in asked], params, use_tqdm=False)
            theirs.append(time.monotonic() - begin)
            tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
            print(
                f"{len(asked):,} prefixes, tokens/s: negdata value {speed['tokens'] / ours[-1]:,.0f} "
                f"({speed['tokens']:,} tokens), LLM.generate {tokens / theirs[-1]:,.0f} ({tokens:,} tokens)",
                flush=True,
            )
    print(f"medians: negdata value {median(ours):.1f} s, LLM.generate {median(theirs):.1f} s")
    print(f"ratio {(speed['tokens'] / median(ours)) / (tokens / median(theirs)):.2f}")


if __name__ == "__main__":
    main()
