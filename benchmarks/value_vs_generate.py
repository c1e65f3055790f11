"""Tokens a second of `negdata value`, against those of vLLM's own `LLM.generate` on the very same prefix requests.

    python benchmarks/value_vs_generate.py        # after `make quickstart`, whose answers and model it uses

`value` also cuts answers into steps, grades every rollout and writes the store; `LLM.generate` is given all requests
at once, as token ids with equal seeds, and only generates. Engine start counts on neither side. The last line is
tokens a second of value / of LLM.generate. Aim: at least 0.9.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from prefixes import first_problems, parser, prefixes, start_vllm, value

from openrlhf_negdata.rollouts.engines import Sampling, sampling_params


def main() -> None:
    args = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        graded = first_problems(args.input, args.problems, Path(folder) / "graded")
        run, speed = value(graded, args.model, args.n_rollouts, Path(folder) / "values")
        asked = prefixes(run)
    ours = speed["tokens"] / speed["seconds"]
    print(f"negdata value: {speed['tokens']:,} tokens from {len(asked):,} prefixes, {ours:,.0f} tokens/s")
    sampling = Sampling(**graded.manifest["settings"]["input"]["sampling"])
    llm = start_vllm(args.model, max(len(one["ids"]) + one["left"] for one in asked))
    params = [sampling_params(sampling, args.n_rollouts, one["left"], one["seed"]) for one in asked]
    begin = time.monotonic()
    outputs = llm.generate([{"prompt_token_ids": one["ids"]} for one in asked], params, use_tqdm=False)
    seconds = time.monotonic() - begin
    tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
    theirs = tokens / seconds
    print(f"LLM.generate:  {tokens:,} tokens from {len(asked):,} prefixes, {theirs:,.0f} tokens/s")
    print(f"ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
