"""Time and memory of building an `rft` and a `algorithm1` file of 1,000,000 answers and their values.

    python benchmarks/million_rows.py

Eight distinct answers a problem, of two steps each; four rollouts from before every step. Prints seconds and peak
resident memory of each command at a quarter of the size and at the whole. The last line is the time a row at the whole
/ at a quarter, of the arm for which it is worse: 1 where time is linear in rows. Aim: at most 2 GiB, and a ratio near
1.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

import tokenizers
from million_traces import SAMPLES, SHARD, measured
from transformers import PreTrainedTokenizerFast

from openrlhf_negdata.records import Problem, Rollout, StepValues, Trace
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS

K, FIRST, LAST = 4, 50, 70


def store(folder: Path, traces: int) -> Run:
    problems = [Problem(str(i), f"What is {i} + 1?", str(i + 1)) for i in range(traces // SAMPLES)]
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<eos>": 0} | {f"w{i}": i for i in range(1, 200)}))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(folder / "tokenizer")
    settings = {"task": "math", "budget": asdict(Budget(n_rollouts=K)), "steps": asdict(PRESETS["task"])}
    run = Run.create(folder, "value", settings, problems)
    run.expect(-(-len(problems) // SHARD))
    for number in range(0, len(problems), SHARD):
        some = problems[number : number + SHARD]
        run.write("traces", number // SHARD, [answer(one, i) for one in some for i in range(SAMPLES)])
        run.write("rollouts", number // SHARD, [rollout for one in some for rollout in rollouts(one)])
        run.write("values", number // SHARD, [values(one, i) for one in some for i in range(SAMPLES)])
    run.finish({})
    return run


def answer(problem: Problem, sample: int) -> Trace:
    right = sample % 2 == 0
    ids = [1 + sample] * FIRST + [100 + sample] * LAST
    text = f"The way number {sample}.\nSo the answer is \\boxed{{{int(problem.gold) + (not right)}}}."
    return Trace(problem.id, sample, list(range(1, 41)), ids, text, "stop", "correct" if right else "wrong")


def values(problem: Problem, sample: int) -> StepValues:
    return StepValues(problem.id, sample, [FIRST, FIRST + LAST], [K // 2, sample % K], [K, K])


def rollouts(problem: Problem) -> list[Rollout]:
    begun = [[], *([1 + sample] * FIRST for sample in range(SAMPLES))]
    return [
        Rollout(problem.id, prefix, [90 + i] * LAST, "correct" if i < K // 2 else "wrong", i)
        for prefix in begun
        for i in range(K)
    ]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--traces", type=int, default=1_000_000, help="the whole")
    args = flags.parse_args()
    a_row: dict[str, list[float]] = {"rft": [], "algorithm1": []}
    for traces in (args.traces // 4, args.traces):
        with tempfile.TemporaryDirectory() as folder:
            run = store(Path(folder) / "values", traces)
            for arm, seconds_a_row in a_row.items():
                output = Path(folder) / f"{arm}.jsonl"
                seconds, peak = measured("build", arm, "--input", run.path, "--output", output)
                with output.open() as file:
                    rows = sum(1 for _ in file)
                print(
                    f"{arm:8} {traces:9,} answers, {rows:7,} rows: {seconds:7.1f} s, {peak:.2f} GiB at most",
                    flush=True,
                )
                seconds_a_row.append(seconds / traces)
    print(f"ratio {max(whole / quarter for quarter, whole in a_row.values()):.2f}")


if __name__ == "__main__":
    main()
