"""Prefixes a second of `negdata value`, against the loop that most repositories use.

    python benchmarks/value_vs_loop.py            # after `make quickstart`, whose answers and model it uses

The loop takes one prefix at a time, as text, and calls `LLM.generate` K times for it. It is timed on --loop_prefixes
of the same prefixes, spread evenly. Engine start counts on neither side. The last line is prefixes a second of value /
of the loop. Aim: at least 3.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from prefixes import first_problems, parser, prefixes, start_vllm, value


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--loop_prefixes", type=int, default=60, help="prefixes the loop is timed on")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        graded = first_problems(args.input, args.problems, Path(folder) / "graded")
        run, speed = value(graded, args.model, args.n_rollouts, Path(folder) / "values")
        asked = prefixes(run)
        tokenizer = run.tokenizer()
    ours = speed["prefixes"] / speed["seconds"]
    print(f"negdata value: {len(asked):,} prefixes, {ours:,.1f} prefixes/s")
    llm = start_vllm(args.model, max(len(one["ids"]) + one["left"] for one in asked) + 8)
    from vllm import SamplingParams

    some = asked[:: max(1, len(asked) // args.loop_prefixes)][: args.loop_prefixes]
    temperature = graded.manifest["settings"]["input"]["sampling"]["temperature"]
    begin = time.monotonic()
    for one in some:
        text = tokenizer.decode(one["ids"])
        for _ in range(args.n_rollouts):
            llm.generate(text, SamplingParams(temperature=temperature, max_tokens=one["left"]), use_tqdm=False)
    theirs = len(some) / (time.monotonic() - begin)
    print(f"the loop:      {len(some):,} prefixes, {theirs:,.1f} prefixes/s")
    print(f"ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
