"""What value_vs_generate.py and value_vs_loop.py share: a graded run, its prefixes, and vLLM used on its own."""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from openrlhf_negdata import cpu
from openrlhf_negdata.rollouts import engines
from openrlhf_negdata.rollouts.store import Run


def parser(doc: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--input", default="runs/quickstart/graded", help="a run of `negdata grade`")
    made.add_argument("--model", default="runs/quickstart/models/sft", help="the policy that wrote it")
    made.add_argument("--problems", type=int, default=400, help="value the answers of this many problems")
    made.add_argument("--n_rollouts", type=int, default=8, help="K")
    return made


def first_problems(path: str, count: int, output: Path, task: str | None = None) -> Run:
    """A copy of a graded run with its first ``count`` problems alone, perhaps for another ``task``."""
    run = Run.open(path)
    problems = run.problems()[:count]
    kept = {problem.id for problem in problems}
    settings = run.manifest["settings"] | {"first": count} | ({"task": task} if task else {})
    part = Run.create(output, "grade", settings, problems, tokenizer_from=run.path)
    part.expect(1)
    part.write("traces", 0, (trace for trace in run.read("traces") if trace.problem in kept))
    part.finish({})
    return Run.open(output)


def value(graded: Run, model: str, n_rollouts: int, output: Path) -> tuple[Run, Counter[str]]:
    """Run `negdata value`. Returns its run, and what it says of its speed: seconds from the first request to the last
    shard on disk, engine start left out; prefixes, rollouts and tokens."""
    command = [sys.executable, "-m", "openrlhf_negdata.cli.main", "value", "--input", str(graded.path)]
    command += ["--model.model_name_or_path", model, "--value.n_rollouts", str(n_rollouts), "--output", str(output)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    run = Run.open(output)
    return run, run.speed("values")


def prefixes(run: Run) -> list[dict[str, Any]]:
    """What was rolled out: token ids of prompt and prefix, the tokens left, the seed of the first draw."""
    prompts = {trace.problem: trace.prompt_ids for trace in run.read("traces")}
    budget = run.manifest["settings"]["input"]["input"]["max_tokens"]
    found = []
    for (problem, prefix), draws in itertools.groupby(
        run.read("rollouts"), key=lambda rollout: (rollout.problem, tuple(rollout.prefix_ids))
    ):
        first = next(draws)
        found.append({"ids": [*prompts[problem], *prefix], "left": budget - len(prefix), "seed": first.seed})
    return found


def start_vllm(model: str, max_len: int) -> Any:
    """vLLM's own LLM, with the settings that `negdata value` gives its engines."""
    settings: dict[str, Any] = {}
    if cpu.without_cuda():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // 2))
        settings = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, max_len)}
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM

    return LLM(
        model, dtype=engines.dtype({"vllm.dtype": None}), max_model_len=max_len, max_num_seqs=256,
        enable_prefix_caching=True, enforce_eager=cpu.without_cuda(), **settings,
    )  # fmt: skip
