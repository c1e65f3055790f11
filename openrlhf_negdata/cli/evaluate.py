"""Measure the test error of one or more policies, greedily, and how likely each is to finish from a right start.

    negdata evaluate --task gsm8k --problems test.jsonl --models sft=runs/sft step_dpo=runs/step_dpo --output
    evaluation

One engine serves all policies that differ in their weights alone, which are exchanged; others are served one engine
after the other, each policy with its own config, tokenizer, chat template and end tokens. A file ARM.json a policy;
arms that have theirs are not evaluated again. ARM.answers.parquet keeps the answers: `negdata show evaluation
--compare sft:step_dpo` sets those of two arms side by side.

--rollout.n_samples_per_prompt N also samples N answers a problem, for pass@k and maj@k.

--q_problems N also estimates, on the first N of those problems that have a solution, the chance of success (Q) from
the prefix before each step of that solution, by --q_rollouts samples of the policy: Figure 7 of Setlur et al. 2024.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openrlhf_negdata import models
from openrlhf_negdata.analysis import answers as kept
from openrlhf_negdata.analysis.at_k import votes_of
from openrlhf_negdata.analysis.summary import NOT_ARMS
from openrlhf_negdata.cli.grade import add_grading_flag, warn_of_no_answers
from openrlhf_negdata.cli.progress import Progress
from openrlhf_negdata.cli.sample import add_sampling_flags, check_policy, max_response_tokens, read_sampling
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import only_writer, read_problems, write_json
from openrlhf_negdata.forms import ACCEPTED
from openrlhf_negdata.grading import TIMEOUT, grade_rows
from openrlhf_negdata.records import CORRECT, NO_ANSWER, OUTCOMES, Problem, Trace, content_seed
from openrlhf_negdata.rollouts import engines, prompts
from openrlhf_negdata.rollouts.prompts import Prompting
from openrlhf_negdata.rollouts.sampling import answer_problems, encode_response
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.driver import AHEAD, EXECUTOR, ValueJob, ValueResult, ValueRun
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS, split_steps
from openrlhf_negdata.tasks import Task, load


@dataclass(frozen=True)
class Exam:
    """What every arm is asked. ``q_problems`` are those on which Q by step is estimated; ``samples`` are drawn of each
    problem beside the greedy answer."""

    task: Task
    problems: list[Problem]
    q_problems: list[Problem]
    q_rollouts: int
    sampling: engines.Sampling
    max_tokens: int
    seed: int
    prompting: Prompting = Prompting()
    samples: int = 0


@dataclass
class Group:
    """Policies that one engine can serve (:func:`models.serving_key`), by arm, and how they are all prompted.
    ``prompts`` holds the token ids of the prompt of every problem, by its id; ``solutions`` those of the solution of
    each q_problem, None of one longer than an answer may be; ``rollouts`` are drawn for its Q by step."""

    arms: dict[str, Path]
    tokenizer: Any
    prompts: dict[str, list[int]]
    longest: int
    solutions: list[list[int] | None]
    rollouts: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", required=True, help="what the problems are: a built-in task, or the path of a .py file"
    )
    parser.add_argument("--problems", required=True, help=f"held-out problems: {ACCEPTED}")
    parser.add_argument(
        "--models", required=True, nargs="+", metavar="ARM=MODEL", help="policies, each with the name of its arm"
    )
    parser.add_argument("--output", required=True, help="the folder to write")
    parser.add_argument(
        "--q_problems",
        type=int,
        default=0,
        help="problems, of those that have a solution, on which Q by step is estimated; 0: none",
    )
    parser.add_argument("--q_rollouts", type=int, default=8, help="rollouts a prefix for Q by step")
    parser.add_argument(
        "--rollout.n_samples_per_prompt",
        type=int,
        default=0,
        help="answers sampled a problem, beside the greedy one, for pass@k and maj@k; 0: none",
    )
    parser.add_argument(
        "--prompts_of", default=None, metavar="RUN", help="prompt as the answers of this run were (its --data flags)"
    )
    add_grading_flag(parser)
    add_sampling_flags(parser)
    engines.add_flags(parser)


def run(args: argparse.Namespace) -> None:
    flags = vars(args)
    task = load(args.task).graded_by(args.grading)
    problems = read_problems(args.problems, task)
    arms = _named(args.models, flags)
    exam = _exam(args, task, problems)
    output = Path(args.output)
    settings = _settings(args, exam)
    if (output / "settings.json").is_file() and json.loads((output / "settings.json").read_text()) != settings:
        raise UserError(f"{output} was made with other settings: give another --output, or remove that folder")
    revisions = {name: models.revision(model) for name, model in arms.items()}

    def owed_now() -> dict[str, Path]:
        return {name: model for name, model in arms.items() if not _is_done(output / f"{name}.json", revisions[name])}

    if not owed_now():
        print(f"{output} is complete: {', '.join(arms)}")
        return
    if len(exam.q_problems) < args.q_problems:
        print(f"Q by step: only {len(exam.q_problems)} of {len(problems)} problems have a solution", file=sys.stderr)
    _groups(owed_now(), exam, flags)  # a model that cannot take the problems is refused before anything is written
    only_writer(output / ".lock", ["*"])
    kept.write_problems(output, problems)
    write_json(output / "settings.json", settings)
    groups = _groups(owed_now(), exam, flags)
    answers = sum(len(group.arms) * (len(problems) * (1 + exam.samples) + group.rollouts) for group in groups)
    with Progress(total=answers, desc="evaluate", unit="answer") as bar:
        for group in groups:
            _evaluate(group, exam, output, revisions, flags, bar)
    for name in arms:
        wrong = json.loads((output / f"{name}.json").read_text())["wrong"]
        print(f"{name}: test error {100 * sum(wrong) / len(wrong):.1f} % of {len(wrong)} problems")


def _exam(args: argparse.Namespace, task: Task, problems: list[Problem]) -> Exam:
    flags = vars(args)
    samples = flags["rollout.n_samples_per_prompt"]
    if args.q_problems < 0 or args.q_rollouts < 1:
        raise UserError("--q_problems must be at least 0 and --q_rollouts at least 1")
    if samples < 0:
        raise UserError(f"--rollout.n_samples_per_prompt must be at least 0, not {samples}")
    solved = [problem for problem in problems if problem.solution][: args.q_problems]
    return Exam(
        task, problems, solved, args.q_rollouts, read_sampling(flags), max_response_tokens(task, flags), args.seed,
        _prompting(flags), samples,
    )  # fmt: skip


def _settings(args: argparse.Namespace, exam: Exam) -> dict[str, Any]:
    """What decides the figures of every arm."""
    return {
        "task": exam.task.identity,
        "grading": args.grading,
        "problems": len(exam.problems),
        "problems_digest": content_seed(exam.problems),
        "max_tokens": exam.max_tokens,
        "dtype": engines.dtype(vars(args)),
        "prompting": vars(exam.prompting),
        "q_problems": args.q_problems,
        "q_rollouts": args.q_rollouts,
        "q_sampling": vars(exam.sampling),
        "seed": args.seed,
        **({"samples": exam.samples} if exam.samples else {}),
    }


def _evaluate(
    group: Group, exam: Exam, output: Path, revisions: dict[str, str], flags: dict[str, Any], bar: Any
) -> None:
    """Evaluate the policies of a group with one engine, and write the files of each as it is done."""
    first = next(iter(group.arms.values()))
    with engines.Engines(first, group.longest, flags, EXECUTOR) as running:
        bar.unpause()  # the start of the engine is not in the rate
        for name, model in group.arms.items():
            running.load(model)
            begin = time.monotonic()
            greedy = _answers(running, exam, group, 1, engines.Sampling(temperature=0.0), revisions[name], bar)
            sampled = _answers(running, exam, group, exam.samples, exam.sampling, revisions[name], bar)
            q_by_step, drawn = _q_by_step(running, exam, group, first, revisions[name], flags, bar)
            spent = Counter(answers=len(exam.problems) * (1 + exam.samples)) + drawn
            spent["tokens"] += sum(len(one.token_ids or ()) for of_one in (*greedy, *sampled) for one in of_one)
            told = {
                "arm": name,
                "model": str(model),
                "revision": revisions[name],
                "task": exam.task.identity,
                "problems": len(exam.problems),
                **_figures(exam, [of_one[0] for of_one in greedy]),
                "q_by_step": q_by_step,
                "votes": [votes_of(of_one) for of_one in sampled] if exam.samples else None,
                "spent": {**spent, "seconds": round(time.monotonic() - begin, 3)},
            }
            numbered = (
                replace(one, sample=number)
                for greedy_one, sampled_ones in zip(greedy, sampled, strict=True)
                for number, one in enumerate([*greedy_one, *sampled_ones])
            )
            kept.write(kept.file_of(output, name), numbered)
            write_json(output / f"{name}.json", told)  # the last: it says that the arm is done


def _prompting(flags: dict[str, Any]) -> Prompting:
    """How the policies are prompted: as the flags say, or as the answers of the run ``--prompts_of`` were."""
    said = prompts.read_flags(flags)
    if flags["prompts_of"] is None:
        return said
    if said != Prompting():
        raise UserError("--prompts_of RUN says how to prompt: leave out the --data flags")
    return Prompting(**Run.open(flags["prompts_of"], complete=False).sampled["prompting"])


def _named(words: list[str], flags: dict[str, Any]) -> dict[str, Path]:
    """The model folders of --models, by arm."""
    arms: dict[str, Path] = {}
    for word in words:
        name, _, model = word.partition("=")
        if not model or name in arms or not re.fullmatch(r"[^/.\0][^/\0]*", name):
            raise UserError(f"--models {word}: write ARM=MODEL, each arm once")
        if f"{name}.json" in NOT_ARMS:
            raise UserError(f"--models {word}: {name}.json is another file of that folder: give the arm another name")
        arms[name] = check_policy(model, flags)
    return arms


def _groups(arms: dict[str, Path], exam: Exam, flags: dict[str, Any]) -> list[Group]:
    """``arms`` by what can serve them. UserError where one of them cannot be asked all problems."""
    by_key: dict[str, dict[str, Path]] = {}
    for name, model in arms.items():
        by_key.setdefault(models.serving_key(model), {})[name] = model
    groups = []
    for alike in by_key.values():
        model = next(iter(alike.values()))
        tokenizer = models.load_tokenizer(str(model), flags["model.trust_remote_code"])
        prompts.check_fit(exam.prompting, tokenizer, model)
        encode = exam.prompting.encoder(tokenizer, exam.task)
        asked = {problem.id: encode(problem.question) for problem in exam.problems}
        longest = models.check_length(model, {name: len(ids) for name, ids in asked.items()}, exam.max_tokens)
        end = exam.prompting.end(tokenizer)
        written = [encode_response(tokenizer, str(problem.solution), end) for problem in exam.q_problems]
        solutions = [ids if len(ids) <= exam.max_tokens else None for ids in written]
        prefixes = sum(len(split_steps(ids, tokenizer, exam.task)) for ids in solutions if ids is not None)
        groups.append(Group(alike, tokenizer, asked, longest, solutions, exam.q_rollouts * prefixes))
    return groups


def _is_done(path: Path, revision: str) -> bool:
    return path.is_file() and json.loads(path.read_text())["revision"] == revision


def _answers(
    running: engines.Engines, exam: Exam, group: Group, samples: int, sampling: engines.Sampling, policy: str, bar: Any
) -> list[list[Trace]]:
    """``samples`` graded answers to each problem: the draws of `negdata sample` with the same policy and seed."""
    if not samples:
        return [[] for _ in exam.problems]
    encode = exam.prompting.encoder(group.tokenizer, exam.task)
    made = answer_problems(
        running, exam.problems, encode, group.tokenizer, samples=samples, sampling=sampling,
        max_tokens=exam.max_tokens, seed=(policy, exam.seed), told=lambda problems: bar.update(samples * problems),
    )  # fmt: skip
    answers = list(made)
    rows = [
        (problem.gold, one.text, one.finish_reason)
        for problem, of_one in zip(exam.problems, answers, strict=True)
        for one in of_one
    ]
    grades = grade_rows(exam.task, rows)
    return [
        [replace(one, outcome=graded.outcome, answer=graded.answer) for one in of_one for graded in (next(grades),)]
        for of_one in answers
    ]


def _figures(exam: Exam, answers: list[Trace]) -> dict[str, Any]:
    """What ARM.json tells of the greedy answers, one a problem."""
    outcomes = [str(answer.outcome) for answer in answers]
    unread = {answer.outcome: answer.text for answer in answers}.get(NO_ANSWER, "")
    warn_of_no_answers(exam.task, Counter(outcomes), unread)
    whole = [
        exam.task.trace_right(problem.question, answer.text) and answer.finish_reason == "stop"
        for problem, answer in zip(exam.problems, answers, strict=True)
    ]
    counted = Counter(outcomes)
    return {
        "wrong": [int(outcome != CORRECT) for outcome in outcomes],
        "trace_wrong": None if None in whole else [int(not right) for right in whole],
        "outcomes": {outcome: counted[outcome] for outcome in OUTCOMES},
    }


def _q_by_step(
    running: engines.Engines, exam: Exam, group: Group, tokenizer: Path, revision: str, flags: dict[str, Any], bar: Any
) -> tuple[dict[str, list[list[int]]] | None, Counter[str]]:
    """Rollouts of the policy from before each step of the solutions: how many were right, and how many were made; and
    how many rollouts, of how many tokens, that took. Of a solution longer than an answer may be, none."""
    if not exam.q_problems:
        return None, Counter()
    run = ValueRun(
        task=exam.task.source or exam.task.name,
        identity=exam.task.identity,
        timeout=TIMEOUT,
        tokenizer=str(tokenizer.resolve()),
        model=revision,
        segmentation=PRESETS["task"],
        sampling=exam.sampling,
        max_tokens=exam.max_tokens,
        budget=Budget(n_rollouts=exam.q_rollouts),
        seed=exam.seed,
        grading=exam.task.grading,
        trust_remote_code=flags["model.trust_remote_code"],
    )
    jobs = [
        ValueJob(run, group.prompts[problem.id], problem.gold, [] if ids is None else [(ids, CORRECT)])
        for problem, ids in zip(exam.q_problems, group.solutions, strict=True)
    ]
    counts, spent = [], Counter[str]()

    def told(result: ValueResult) -> None:
        draws = [len(draw.token_ids) for of_one in result.draws.values() for draw in of_one]
        spent.update(rollouts=len(draws), tokens=sum(draws))
        bar.update(len(draws))

    for ids, result in zip(group.solutions, running.run(jobs, AHEAD, told), strict=True):
        counts.append(([], []) if ids is None else result.counts(0, ids))
    return {"correct": [correct for correct, _ in counts], "count": [count for _, count in counts]}, spent
