"""Estimate the chance of success before every step of every answer, by Monte Carlo rollouts of the policy that wrote
it.

    negdata value --input graded --model.model_name_or_path MODEL --output values --value.n_rollouts 8
    negdata value ... --dry_run --rate_of RUN         what it would cost, in rollouts, tokens and time
    negdata value ... --value.budget race             pairs of next steps for siblings, each for as few as tell them
    negdata value ... --value.budget sequential       only what it takes to find the first pit of wrong answers

Rollouts are drawn as the answers were: same model, template, temperature, and one token budget for the whole
response. Equal prefixes of a problem are rolled out once; the end of an answer is not rolled out, its value is the
outcome. Run again after a kill, it goes on after the last whole shard; run again when done, it does nothing.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from tqdm import tqdm

from openrlhf_negdata import models
from openrlhf_negdata.cli import dry_run
from openrlhf_negdata.cli.progress import Progress
from openrlhf_negdata.cli.sample import check_policy
from openrlhf_negdata.cli.show import show
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.records import (
    CORRECT,
    FAILED,
    NO_ANSWER,
    OUTCOMES,
    TIMED_OUT,
    TRUNCATED,
    WRONG,
    Trace,
    content_seed,
)
from openrlhf_negdata.rollouts import engines
from openrlhf_negdata.rollouts.prompts import Prompting
from openrlhf_negdata.rollouts.sampling import encode_response
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.driver import AHEAD, EXECUTOR, ValueJob, ValueResult, ValueRun
from openrlhf_negdata.steps.monte_carlo import BUDGETS, Answer, Budget
from openrlhf_negdata.steps.split import PRESETS, first_step, split_steps
from openrlhf_negdata.tasks import Task

#: Flags that say which answers are valued, without their section.
WHICH = ("wrong_per_problem", "correct_per_problem", "skip_all_right", "skip_all_wrong")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input", required=True, help="run folder of graded answers, made by `negdata grade` or `import`"
    )
    parser.add_argument("--output", required=True, help="the run folder to write")
    parser.add_argument("--task", help="the run's own task: to be named where it is a .py file")
    parser.add_argument("--model.model_name_or_path", required=True, help="the policy that wrote the answers")
    parser.add_argument(
        "--value.budget",
        choices=BUDGETS,
        default=Budget.kind,
        help="exhaustive: every step; sequential: from the first step to the first pit of wrong answers, as few "
        "rollouts as decide it; race: pairs of next steps for siblings, as few rollouts as tell two apart",
    )
    parser.add_argument(
        "--value.n_rollouts",
        type=int,
        default=Budget.n_rollouts,
        help="rollouts a prefix (K); of sequential at most; of race those that draw the steps",
    )
    parser.add_argument(
        "--value.threshold",
        type=float,
        default=Budget.threshold,
        help="sequential: an answer is lost where Q is below this",
    )
    parser.add_argument(
        "--value.confidence",
        type=float,
        default=Budget.confidence,
        help="sequential: posterior chance at which it is decided whether an answer is lost at a step",
    )
    parser.add_argument(
        "--value.gap", type=float, default=Budget.gap, help="race: two next steps are to differ by more than this"
    )
    parser.add_argument(
        "--value.gap_confidence",
        type=float,
        default=Budget.gap_confidence,
        help="race: posterior chance at which it is decided that they do",
    )
    parser.add_argument(
        "--value.n_race",
        type=int,
        default=Budget.n_race,
        help="race: most rollouts from the ends of the steps that race from one prefix",
    )
    parser.add_argument(
        "--value.wrong_per_problem", type=int, default=-1, help="distinct wrong answers a problem; -1: all"
    )
    parser.add_argument(
        "--value.correct_per_problem", type=int, default=-1, help="distinct correct answers a problem; -1: all"
    )
    parser.add_argument("--value.solutions", action="store_true", help="value the teacher's solutions too")
    parser.add_argument("--value.skip_all_right", action="store_true", help="skip problems without a wrong answer")
    parser.add_argument("--value.skip_all_wrong", action="store_true", help="skip problems without a right answer")
    parser.add_argument(
        "--steps",
        choices=tuple(PRESETS),
        default="task",
        help="where steps end: as the task says, or a shape of the literature (see docs/steps.md)",
    )
    parser.add_argument(
        "--shard_size",
        type=int,
        default=64,
        help="problems a shard. A shard is written when all before it are done: a kill costs the problems under way, "
        f"up to {5 * AHEAD} an engine, and a shard",
    )
    parser.add_argument("--seed", type=int, default=0, help="with the content of a prefix, decides its rollouts")
    engines.add_flags(parser)
    dry_run.add_flags(parser, "how many rollouts and tokens and how long it would take")


def run(args: argparse.Namespace) -> None:
    flags = vars(args)
    graded = Run.open(args.input)
    if not graded.graded:
        raise UserError(
            f"{args.input} was not made by `negdata grade` or `negdata import`: grade it first and give that output"
        )
    task, budget = graded.task(args.task), _budget(flags)
    if args.shard_size < 1:
        raise UserError(f"--shard_size must be at least 1, not {args.shard_size}")
    made = graded.sampled
    model = check_policy(flags["model.model_name_or_path"], flags)
    if models.revision(model) != made["model"]:
        raise UserError(
            f"{model} is not the model that wrote {args.input}: values are those of the policy that is trained"
        )
    settings = {
        "task": graded.manifest["settings"]["task"],
        "input": graded.manifest["settings"],
        "dtype": engines.dtype(flags),
        "budget": budget.settings(),
        "steps": asdict(PRESETS[args.steps]),
        **{name: flags[f"value.{name}"] for name in WHICH},
        **({"solutions": True} if flags["value.solutions"] else {}),
        "shard_size": args.shard_size,
        "seed": args.seed,
    }
    if not (Path(args.output) / "manifest.json").is_file() and next(chosen(graded, flags, Counter()), None) is None:
        raise UserError(f"{args.input}: no answer is left to value")
    if args.dry_run:
        there = Run.check(args.output, "value", settings, graded.problems())
        tokens = _print_cost(graded, task, flags, budget)
        most = "" if budget.kind == "exhaustive" else "at most "
        print(dry_run.time_of(tokens, dry_run.owed(there), dry_run.measured(Path(args.output), flags), flags, most))
        return
    output = Run.create(args.output, "value", settings, graded.problems(), graded.path, task)
    if not output.complete:
        _value(graded, task, output, model, flags, budget)
    show(output)


def _value(graded: Run, task: Task, output: Run, model: Path, flags: dict, budget: Budget) -> None:
    made, size = graded.sampled, flags["shard_size"]
    dropped = Counter[str]()
    answers: list[int] = []  # a shard
    longest = 0
    for index, traces in enumerate(chosen(graded, flags, dropped)):
        answers += [0] * (index % size == 0)
        answers[-1] += len(traces)
        longest = max(longest, len(traces[0].prompt_ids or ()))
    output.expect(len(answers))
    owed = set(output.owed())
    if owed:
        run = ValueRun(
            task=task.source or task.name,
            identity=task.identity,
            timeout=graded.manifest["settings"]["timeout"],
            tokenizer=str((output.path / "tokenizer").resolve()),
            model=made["model"],
            segmentation=PRESETS[flags["steps"]],
            sampling=engines.Sampling(**made["sampling"]),
            max_tokens=made["max_tokens"],
            budget=budget,
            seed=flags["seed"],
            grading=task.grading,
            trust_remote_code=flags["model.trust_remote_code"],
        )
        gold = {problem.id: problem.gold for problem in output.problems()}
        numbered = ((index // size, traces) for index, traces in enumerate(chosen(graded, flags, Counter())))
        asked, answered = itertools.tee(
            (number, traces, _job(run, traces, gold)) for number, traces in numbered if number in owed
        )
        jobs = (job for _, _, job in asked)
        begun = AHEAD * flags["vllm.num_engines"]
        done = sum(count for number, count in enumerate(answers) if number not in owed)
        with (
            engines.Engines(model, longest + made["max_tokens"], flags, EXECUTOR) as running,
            Progress(begun, total=sum(answers), initial=done, desc="value", unit="answer") as bar,
        ):
            begin = time.monotonic()
            made_now = running.run(jobs, AHEAD, told=lambda result: bar.update(len(result.step_ends)))
            results = zip(answered, made_now, strict=True)
            for number, group in itertools.groupby(results, key=lambda result: result[0][0]):
                shard = [(traces, job, result) for (_, traces, job), result in group]
                begin, seconds = time.monotonic(), time.monotonic() - begin
                _write(output, number, shard, seconds, flags["vllm.num_engines"])
    given = graded.outcomes("traces")
    valued, rollouts = output.outcomes("traces"), output.outcomes("rollouts")
    counts = {"traces": given.total()} | {f"given_{outcome}": given[outcome] for outcome in OUTCOMES if given[outcome]}
    counts |= {
        "solutions": sum(pc.sum(pc.less(some["sample"], 0)).as_py() for some in output.columns("traces", "sample"))
    }
    counts |= {"valued": valued.total()} | {f"valued_{outcome}": valued[outcome] for outcome in OUTCOMES}
    counts |= {f"dropped_{reason}": count for reason, count in sorted(dropped.items())}
    counts |= {"rollouts": rollouts.total()} | {f"rollouts_{outcome}": rollouts[outcome] for outcome in OUTCOMES}
    output.finish({name: count for name, count in counts.items() if count})


def _job(run: ValueRun, traces: list[Trace], gold: dict[str, str]) -> ValueJob:
    answers = [(list(trace.token_ids or ()), str(trace.outcome)) for trace in traces]
    return ValueJob(run, list(traces[0].prompt_ids or ()), gold[traces[0].problem], answers)


def _write(
    output: Run,
    number: int,
    shard: list[tuple[list[Trace], ValueJob, ValueResult]],
    seconds: float,
    num_engines: int,
) -> None:
    rollouts, values = [], []
    speed = Counter[str]()
    for traces, job, result in shard:
        valued, drawn = result.records(job, traces[0].problem, [trace.sample for trace in traces])
        values += valued
        rollouts += drawn
        speed.update(
            prefixes=len(result.draws), prompt_tokens=result.prompt_tokens, cached_tokens=result.cached_tokens
        )
    speed.update(rollouts=len(rollouts), tokens=sum(len(rollout.token_ids) for rollout in rollouts))
    output.write("rollouts", number, rollouts)
    output.write("traces", number, [trace for traces, _, _ in shard for trace in traces])
    # The values go last: a shard of theirs says that the other two are there.
    output.write(
        "values",
        number,
        values,
        dry_run.timed(speed, seconds, num_engines),
    )


def chosen(graded: Run, flags: dict, dropped: Counter[str]) -> Iterator[list[Trace]]:
    """The answers to value, problem by problem; ``dropped`` counts the others by reason. A teacher's solution is the
    last of them, number -1."""
    solutions: dict[str, str] = {}
    if flags["value.solutions"]:
        tokenizer = graded.tokenizer(flags["model.trust_remote_code"])
        end = Prompting(**graded.sampled.get("prompting", {})).end(tokenizer)
        solutions = {problem.id: problem.solution for problem in graded.problems() if problem.solution}
    for problem, group in itertools.groupby(graded.read("traces"), key=lambda trace: trace.problem):
        traces = list(group)
        answers = choose(traces, flags, dropped)
        if solution := solutions.get(problem):
            ids = encode_response(tokenizer, solution, end)
            if len(ids) > graded.sampled["max_tokens"]:
                dropped["solution_over_long"] += 1
            else:
                answers.append(Trace(problem, -1, traces[0].prompt_ids, ids, solution, "stop", CORRECT))
        if answers:
            yield answers


def choose(answers: list[Trace], flags: dict, dropped: Counter[str]) -> list[Trace]:
    """Of the answers to one problem, up to ``value.wrong_per_problem`` distinct wrong ones and
    ``value.correct_per_problem`` distinct right ones; -1 takes all.

    An answer that ran out of tokens is neither, and is not valued; nor is one the grader gave up on.
    """
    right: list[Trace] = []
    wrong: list[Trace] = []
    for trace in answers:
        if trace.outcome in (TRUNCATED, TIMED_OUT, FAILED):
            dropped[str(trace.outcome)] += 1
        elif not trace.token_ids:
            dropped["empty"] += 1
        else:
            (right if trace.outcome == CORRECT else wrong).append(trace)
    if (flags["value.skip_all_right"] and not wrong) or (flags["value.skip_all_wrong"] and not right):
        dropped["all_wrong" if wrong else "all_right"] += len(right + wrong)
        return []
    taken = []
    for outcomes, traces, limit in (
        ((CORRECT,), right, flags["value.correct_per_problem"]),
        ((WRONG, NO_ANSWER), wrong, flags["value.wrong_per_problem"]),
    ):
        distinct = list({tuple(trace.token_ids or ()): trace for trace in traces}.values())
        dropped["duplicate"] += len(traces) - len(distinct)
        if 0 <= limit < len(distinct):
            dropped["over_limit"] += len(distinct) - limit
            rng = random.Random(content_seed(flags["seed"], traces[0].problem, outcomes))
            distinct = rng.sample(distinct, limit)
        taken += distinct
    return taken


def _budget(flags: dict) -> Budget:
    budget = Budget(
        flags["value.budget"],
        flags["value.n_rollouts"],
        flags["value.threshold"],
        flags["value.confidence"],
        flags["value.gap"],
        flags["value.gap_confidence"],
        flags["value.n_race"],
    )
    if budget.n_rollouts < 1:
        raise UserError(f"--value.n_rollouts must be at least 1, not {budget.n_rollouts}")
    if not 0 < budget.threshold < 1:
        raise UserError(f"--value.threshold must lie between 0 and 1, not {budget.threshold}")
    if not 0.5 < budget.confidence < 1:
        raise UserError(f"--value.confidence must lie between 0.5 and 1, not {budget.confidence}")
    if not 0 <= budget.gap < 1:
        raise UserError(f"--value.gap must be at least 0 and below 1, not {budget.gap}")
    if not 0.5 < budget.gap_confidence < 1:
        raise UserError(f"--value.gap_confidence must lie between 0.5 and 1, not {budget.gap_confidence}")
    if budget.n_race < 2:
        raise UserError(f"--value.n_race must be at least 2, not {budget.n_race}")
    if budget.kind == "sequential" and not budget.stops_where_none_is_right():
        print(
            f"negdata value: warning: with n_rollouts {budget.n_rollouts}, threshold {budget.threshold}, confidence "
            f"{budget.confidence} sequential may name another step than exhaustive with --pit lowest_q; lower "
            "n_rollouts x threshold to 1 at most, or raise the confidence (docs/steps.md)",
            file=sys.stderr,
        )
    return budget


def _print_cost(graded: Run, task: Task, flags: dict, budget: Budget) -> int:
    """Print what a run would cost, and return how many tokens it would generate. A rollout is expected to be as long
    as what is left of the answers through its prefix."""
    tokenizer = graded.tokenizer(flags["model.trust_remote_code"])
    cost, dropped = Counter[str](), Counter[str]()
    with tqdm(total=graded.outcomes("traces").total(), desc="dry run", unit="answer") as bar:
        for traces in chosen(graded, flags, dropped):
            left: dict[tuple[int, ...], list[int]] = {}
            for trace in traces:
                ids = trace.token_ids or []
                ends = [end for _, end in split_steps(ids, tokenizer, task, PRESETS[flags["steps"]])]
                cost.update(answers=1, steps=len(ends))
                if budget.kind == "exhaustive" or trace.outcome != CORRECT:
                    for prefix in Answer(ids, ends, False).prefixes()[budget.kind == "sequential" :]:
                        left.setdefault(prefix, []).append(len(ids) - len(prefix))
            each = budget.n_rollouts + (budget.n_race if budget.kind == "race" else 0)
            cost.update(problems=1, prefixes=len(left), rollouts=each * len(left))
            cost["tokens"] += sum(each * round(sum(rest) / len(rest)) for rest in left.values())
            cost["prompt_tokens"] += sum(len(traces[0].prompt_ids or ()) + len(prefix) for prefix in left)
            bar.update(len(traces))
        bar.update(dropped.total())
    most = "" if budget.kind == "exhaustive" else "at most "
    print(f"{cost['problems']:,} problems, {cost['answers']:,} answers, {cost['steps']:,} steps to value")
    print(f"answers dropped: {dict(sorted((+dropped).items())) or 'none'}")
    print(f"{most}{cost['prefixes']:,} distinct prefixes, {cost['rollouts']:,} rollouts")
    print(f"{most}about {cost['tokens']:,} tokens to generate, after {cost['prompt_tokens']:,} tokens of prefixes")
    taken, once = first_steps(graded, task, tokenizer, flags["steps"])
    if budget.kind == "exhaustive" and 2 * once > taken:
        print(
            f"negdata value: warning: {once:,} of {taken:,} answers begin with a step that no other to their problem "
            "took, so rollouts will hardly take a step twice: siblings will find few pairs. shared-prefix "
            "needs no step to be taken twice",
            file=sys.stderr,
        )
    return cost["tokens"]


def first_steps(graded: Run, task: Task, tokenizer: Any, steps: str) -> tuple[int, int]:
    """How many answers took a whole first step beside other answers to their problem, and how many of them took one
    that no other took: answers are rollouts from the empty prefix, so they tell what rollouts will do."""
    taken = once = 0
    for _, group in itertools.groupby(graded.read("traces"), key=lambda trace: trace.problem):
        begun = Counter[tuple[int, ...]]()
        for ids, outcome in ((trace.token_ids or [], trace.outcome) for trace in group):
            end = first_step(ids, tokenizer, task, PRESETS[steps])
            begun[tuple(ids[:end])] += end > 0 and (end < len(ids) or outcome != TRUNCATED)
        if begun.total() > 1:
            taken += begun.total()
            once += sum(count == 1 for count in begun.values())
    return taken, once
