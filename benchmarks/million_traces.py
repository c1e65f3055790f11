"""Time and memory of a store of 1,000,000 traces, which `negdata grade` grades and `negdata show` summarises.

    python benchmarks/million_traces.py

Answers are math's, whose grader is slow, and repeat within a problem as a policy's do: 8 answers a problem, of which 2
are distinct. Prints seconds and peak resident memory of each command at a quarter of the size and at the whole. The
last line is the time a row of `grade` at the whole / at a quarter: 1 where time is linear in rows. Aim: at most 2 GiB,
and a ratio near 1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tokenizers
from transformers import PreTrainedTokenizerFast

from openrlhf_negdata.records import Problem, Trace
from openrlhf_negdata.rollouts.store import Run

SAMPLES, SHARD = 8, 256


def store(folder: Path, traces: int) -> Run:
    problems = [Problem(str(i), f"What is {i} + 1?", str(i + 1)) for i in range(traces // SAMPLES)]
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<eos>": 0}))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(folder / "tokenizer")
    run = Run.create(folder, "sample", {"task": "math", "traces": traces}, problems)
    run.expect(-(-len(problems) // SHARD))
    for number in range(0, len(problems), SHARD):
        run.write(
            "traces", number // SHARD, [answer(one, i) for one in problems[number : number + SHARD] for i in range(8)]
        )
    run.finish({})
    return run


def answer(problem: Problem, sample: int) -> Trace:
    said = int(problem.gold) + sample % 2
    text = f"We add 1 to {problem.id}, and that is {said}.\nSo the answer is \\boxed{{{said}}}."
    return Trace(problem.id, sample, list(range(40)), list(range(120)), text, "stop")


def measured(*words: object) -> tuple[float, float]:
    """Seconds and peak resident GiB of a command, its grading processes included one by one."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "openrlhf_negdata.cli.main", *map(str, words)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{words} failed")
    return time.monotonic() - begin, usage.ru_maxrss / 2**20


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--traces", type=int, default=1_000_000, help="the whole")
    args = flags.parse_args()
    a_row = []
    for traces in (args.traces // 4, args.traces):
        with tempfile.TemporaryDirectory() as folder:
            run = store(Path(folder) / "traces", traces)
            for name, *words in (
                ("grade", "--input", run.path, "--output", Path(folder) / "graded"),
                ("show", Path(folder) / "graded"),
            ):
                seconds, peak = measured(name, *words)
                print(f"{name:5} {traces:9,} traces: {seconds:7.1f} s, {peak:.2f} GiB at most")
                if name == "grade":
                    a_row.append(seconds / traces)
    print(f"ratio {a_row[1] / a_row[0]:.2f}")


if __name__ == "__main__":
    main()
