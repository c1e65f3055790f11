"""Estimate the chance of success before every step of every answer, by Monte Carlo rollouts of the policy that wrote
it.

    negdata value --input graded --model.model_name_or_path MODEL --output values --value.n_rollouts 8

Rollouts are drawn as the answers were: same model, template, temperature, and one token budget for the whole
response. Equal prefixes of a problem are rolled out once; the end of an answer is not rolled out, its value is the
outcome. Run again after a kill, it goes on after the last whole shard; run again when done, it does nothing.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator

from tqdm import tqdm

from openrlhf_negdata import models
from openrlhf_negdata.cli.sample import check_policy
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.grading import grade_rows
from openrlhf_negdata.rollouts import engines
from openrlhf_negdata.rollouts.sampling import decode_responses
from openrlhf_negdata.rollouts.store import Rollout, Run, StepValues, Trace
from openrlhf_negdata.steps.split import split_steps
from openrlhf_negdata.tasks import CORRECT, NO_ANSWER, WRONG

Prefix = tuple[int, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, help="run folder of graded answers, made by `negdata grade`")
    parser.add_argument("--output", required=True, help="the run folder to write")
    parser.add_argument("--model.model_name_or_path", required=True, help="the policy that wrote the answers")
    parser.add_argument("--value.n_rollouts", type=int, default=8, help="rollouts a prefix (K)")
    parser.add_argument(
        "--value.wrong_per_problem", type=int, default=-1, help="distinct wrong answers a problem; -1: all"
    )
    parser.add_argument(
        "--value.correct_per_problem", type=int, default=-1, help="distinct correct answers a problem; -1: all"
    )
    parser.add_argument("--seed", type=int, default=0, help="with the content of a prefix, decides its rollouts")
    engines.add_flags(parser)


def run(args: argparse.Namespace) -> None:
    flags = vars(args)
    graded = Run.open(args.input)
    if graded.manifest["command"] != "grade":
        raise UserError(f"{args.input} was not made by `negdata grade`: grade it first and give that output")
    made = graded.manifest["settings"]["input"]
    model = check_policy(flags["model.model_name_or_path"], flags)
    if models.revision(model) != made["model"]:
        raise UserError(
            f"{model} is not the model that wrote {args.input}: values are those of the policy that is trained"
        )
    k = flags["value.n_rollouts"]
    if k < 1:
        raise UserError(f"--value.n_rollouts must be at least 1, not {k}")
    settings = {
        "task": graded.manifest["settings"]["task"],
        "input": graded.manifest["settings"],
        "n_rollouts": k,
        "wrong_per_problem": flags["value.wrong_per_problem"],
        "correct_per_problem": flags["value.correct_per_problem"],
        "seed": args.seed,
    }
    problems = graded.problems()
    output = Run.create(args.output, "value", settings, problems, tokenizer_from=graded.path)
    if output.complete:
        print(f"{args.output} is complete: {output.manifest['counts']}")
        return
    task, tokenizer = output.task, output.tokenizer()
    gold = {problem.id: problem.gold for problem in problems}
    max_tokens = made["max_tokens"]
    sampling = engines.Sampling(**made["sampling"])

    numbers = sorted(int(shard.stem.split("-")[1]) for shard in graded.path.glob("traces-*.parquet"))
    owed = [number for number in numbers if not output.shard("values", number).exists()]
    shards: dict[int, list[_Valued]] = {}
    longest = 0
    for number in owed:
        traces = list(graded.read("traces", number))
        longest = max([longest, *(len(trace.prompt_ids) for trace in traces)])
        shards[number] = [
            _Valued(trace, [end for _, end in split_steps(trace.token_ids or [], tokenizer, task)])
            for trace in choose(
                traces, flags["value.wrong_per_problem"], flags["value.correct_per_problem"], args.seed
            )
        ]
    prefixes = {number: _distinct_prefixes(valued) for number, valued in shards.items()}

    def requests() -> Iterator[engines.Request]:
        for number in owed:
            for prompt, prefix in prefixes[number].values():
                seed = engines.content_seed(made["model"], vars(sampling), max_tokens, args.seed, prompt, prefix)
                yield engines.Request([*prompt, *prefix], k, max_tokens - len(prefix), seed)

    if owed:
        with engines.Engines(model, longest + max_tokens, flags) as running:
            outputs = running.generate(requests(), sampling)
            with tqdm(total=sum(map(len, prefixes.values())), desc="value", unit="prefix") as bar:
                for number in owed:
                    rollouts: dict[tuple[str, Prefix], list[engines.Continuation]] = {}
                    for key in prefixes[number]:
                        rollouts[key] = next(outputs)
                        bar.update()
                    flat = [(key, continuation) for key, made_here in rollouts.items() for continuation in made_here]
                    texts = decode_responses(tokenizer, [[*prefix, *c.token_ids] for (_, prefix), c in flat])
                    rows = [(gold[key[0]], text, c.finish_reason) for (key, c), text in zip(flat, texts, strict=True)]
                    kept, correct = [], Counter[tuple[str, Prefix]]()
                    for (key, continuation), grade in zip(flat, grade_rows(task, rows), strict=True):
                        correct[key] += grade.outcome == CORRECT
                        kept.append(Rollout(key[0], list(key[1]), continuation.token_ids, grade.outcome))
                    output.write("rollouts", number, kept)
                    output.write("traces", number, [valued.trace for valued in shards[number]])
                    # The values go last: a shard of theirs says that the other two are there.
                    output.write("values", number, [valued.values(correct, k) for valued in shards[number]])
    counts = Counter[str]()
    for trace in graded.read("traces"):
        counts["traces"] += 1
        counts[f"given_{trace.outcome}"] += 1
    for trace in output.read("traces"):
        counts["valued"] += 1
        counts[f"valued_{trace.outcome}"] += 1
    for rollout in output.read("rollouts"):
        counts["rollouts"] += 1
        counts[f"rollouts_{rollout.outcome}"] += 1
        counts["rollout_tokens"] += len(rollout.token_ids)
    counts["prefixes"] = counts["rollouts"] // k
    output.finish(dict(sorted(counts.items())))
    print(f"{args.output}: {output.manifest['counts']}")


def choose(traces: list[Trace], wrong: int, correct: int, seed: int) -> list[Trace]:
    """Of each problem, up to ``wrong`` distinct wrong answers and ``correct`` distinct right ones; -1 takes all.

    An answer that ran out of tokens is neither, and is not valued; nor is one the grader gave up on.
    """
    chosen = []
    by_problem: dict[str, list[Trace]] = {}
    for trace in traces:
        by_problem.setdefault(trace.problem, []).append(trace)
    for problem, answers in by_problem.items():
        for outcomes, limit in (((CORRECT,), correct), ((WRONG, NO_ANSWER), wrong)):
            distinct = list(
                {tuple(t.token_ids or ()): t for t in answers if t.outcome in outcomes and t.token_ids}.values()
            )
            if 0 <= limit < len(distinct):
                distinct = random.Random(engines.content_seed(seed, problem, outcomes)).sample(distinct, limit)
            chosen += distinct
    return chosen


class _Valued:
    """A trace that is to be valued, and where its steps end."""

    def __init__(self, trace: Trace, step_ends: list[int]) -> None:
        self.trace = trace
        self.step_ends = step_ends

    def prefixes(self) -> list[Prefix]:
        """The response before each step, the first of them empty."""
        tokens = self.trace.token_ids or []
        return [tuple(tokens[:start]) for start in [0, *self.step_ends[:-1]]]

    def values(self, correct: Counter[tuple[str, Prefix]], k: int) -> StepValues:
        counted = [correct[self.trace.problem, prefix] for prefix in self.prefixes()]
        return StepValues(self.trace.problem, self.trace.sample, self.step_ends, counted, [k] * len(counted))


def _distinct_prefixes(valued: list[_Valued]) -> dict[tuple[str, Prefix], tuple[list[int], Prefix]]:
    """(prompt ids, prefix) by (problem, prefix). A trace's prefixes lie next to each other, short to long, so that
    vLLM's prefix cache still holds the shorter one."""
    return {
        (item.trace.problem, prefix): (item.trace.prompt_ids or [], prefix)
        for item in valued
        for prefix in item.prefixes()
    }
