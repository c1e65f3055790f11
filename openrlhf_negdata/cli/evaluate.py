"""Measure the test error of one or more policies, greedily, and how likely each is to finish from a right start.

    negdata evaluate --task gsm8k --problems test.jsonl --models sft=runs/sft step_dpo=runs/step_dpo --output
    evaluation

One engine serves all policies that differ in their weights alone, which are exchanged; others are served one engine
after the other, each policy with its own config, tokenizer, chat template and end tokens. A file ARM.json a policy;
arms that have theirs are not evaluated again.

--q_problems N also estimates, on the first N of those problems that have a solution, the chance of success (Q) from
the prefix before each step of that solution, by --q_rollouts samples of the policy: Figure 7 of Setlur et al. 2024.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openrlhf_negdata import models
from openrlhf_negdata.analysis.summary import NOT_ARMS
from openrlhf_negdata.cli.grade import add_grading_flag, warn_of_no_answers
from openrlhf_negdata.cli.sample import add_sampling_flags, check_policy, max_response_tokens, read_sampling
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import only_writer, read_problems, write_json
from openrlhf_negdata.forms import ACCEPTED
from openrlhf_negdata.grading import TIMEOUT, grade_rows
from openrlhf_negdata.records import CORRECT, NO_ANSWER, OUTCOMES, Problem, content_seed
from openrlhf_negdata.rollouts import engines, prompts
from openrlhf_negdata.rollouts.prompts import Prompting
from openrlhf_negdata.rollouts.sampling import decode_responses, encode_response
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.driver import AHEAD, EXECUTOR, ValueJob, ValueRun
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS
from openrlhf_negdata.tasks import Task, load


@dataclass(frozen=True)
class Exam:
    """What every arm is asked. ``q_problems`` are those on which Q by step is estimated."""

    task: Task
    problems: list[Problem]
    q_problems: list[Problem]
    q_rollouts: int
    sampling: engines.Sampling
    max_tokens: int
    seed: int
    prompting: Prompting = Prompting()


@dataclass
class Group:
    """Policies that one engine can serve (:func:`models.serving_key`), by arm, and how they are all prompted.
    ``prompts`` holds the token ids of the prompt of every problem, by its id."""

    arms: dict[str, Path]
    tokenizer: Any
    prompts: dict[str, list[int]]
    longest: int


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
    sampling, prompting = read_sampling(flags), _prompting(flags)
    if args.q_problems < 0 or args.q_rollouts < 1:
        raise UserError("--q_problems must be at least 0 and --q_rollouts at least 1")
    settings = {
        "task": task.identity,
        "grading": args.grading,
        "problems": len(problems),
        "problems_digest": content_seed(problems),
        "max_tokens": max_response_tokens(task, flags),
        "dtype": engines.dtype(flags),
        "prompting": vars(prompting),
        "q_problems": args.q_problems,
        "q_rollouts": args.q_rollouts,
        "q_sampling": vars(sampling),
        "seed": args.seed,
    }
    output = Path(args.output)
    if (output / "settings.json").is_file() and json.loads((output / "settings.json").read_text()) != settings:
        raise UserError(f"{output} was made with other settings: give another --output, or remove that folder")
    revisions = {name: models.revision(model) for name, model in arms.items()}

    def owed_now() -> dict[str, Path]:
        return {name: model for name, model in arms.items() if not _is_done(output / f"{name}.json", revisions[name])}

    if not owed_now():
        print(f"{output} is complete: {', '.join(arms)}")
        return
    solved = [problem for problem in problems if problem.solution][: args.q_problems]
    if len(solved) < args.q_problems:
        print(f"Q by step: only {len(solved)} of {len(problems)} problems have a solution", file=sys.stderr)
    exam = Exam(task, problems, solved, args.q_rollouts, sampling, settings["max_tokens"], args.seed, prompting)
    _groups(owed_now(), exam, flags)  # a model that cannot take the problems is refused before anything is written
    write_json(output / "settings.json", settings)
    only_writer(output / ".lock", ["*"])
    groups = _groups(owed_now(), exam, flags)
    with tqdm(total=sum(len(group.arms) for group in groups), desc="evaluate", unit="policy") as bar:
        for group in groups:
            first = next(iter(group.arms.values()))
            with engines.Engines(first, group.longest, flags, EXECUTOR) as running:
                for name, model in group.arms.items():
                    running.load(model)
                    told = {
                        "arm": name,
                        "model": str(model),
                        "revision": revisions[name],
                        "task": task.identity,
                        "problems": len(problems),
                    }
                    told |= _greedy(running, exam, group)
                    told["q_by_step"] = _q_by_step(running, exam, group, first, revisions[name], flags)
                    write_json(output / f"{name}.json", told)
                    bar.update()
    for name in arms:
        wrong = json.loads((output / f"{name}.json").read_text())["wrong"]
        print(f"{name}: test error {100 * sum(wrong) / len(wrong):.1f} % of {len(wrong)} problems")


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
        groups.append(Group(alike, tokenizer, asked, longest))
    return groups


def _is_done(path: Path, revision: str) -> bool:
    return path.is_file() and json.loads(path.read_text())["revision"] == revision


def _greedy(running: engines.Engines, exam: Exam, group: Group) -> dict[str, Any]:
    problems = exam.problems
    requests = (engines.Request(group.prompts[problem.id], 1, exam.max_tokens, 0) for problem in problems)
    answers = [continuations[0] for continuations in running.generate(requests, engines.Sampling(temperature=0.0))]
    texts = decode_responses(group.tokenizer, [answer.token_ids for answer in answers])
    rows = [(p.gold, text, a.finish_reason) for p, text, a in zip(problems, texts, answers, strict=True)]
    outcomes = [graded.outcome for graded in grade_rows(exam.task, rows)]
    warn_of_no_answers(exam.task, Counter(outcomes), dict(zip(outcomes, texts, strict=True)).get(NO_ANSWER, ""))
    whole = [
        exam.task.trace_right(problem.question, text) and answer.finish_reason == "stop"
        for problem, text, answer in zip(problems, texts, answers, strict=True)
    ]
    counted = Counter(outcomes)
    return {
        "wrong": [int(outcome != CORRECT) for outcome in outcomes],
        "trace_wrong": None if None in whole else [int(not right) for right in whole],
        "outcomes": {outcome: counted[outcome] for outcome in OUTCOMES},
    }


def _q_by_step(
    running: engines.Engines, exam: Exam, group: Group, tokenizer: Path, revision: str, flags: dict[str, Any]
) -> dict[str, list[list[int]]] | None:
    """Rollouts of the policy from before each step of the solutions: how many were right, and how many were made. Of
    a solution longer than an answer may be, none."""
    if not exam.q_problems:
        return None
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
    solutions = [encode_response(group.tokenizer, str(problem.solution)) for problem in exam.q_problems]
    jobs = [
        ValueJob(run, group.prompts[problem.id], problem.gold, [(ids, CORRECT)] if len(ids) <= exam.max_tokens else [])
        for problem, ids in zip(exam.q_problems, solutions, strict=True)
    ]
    results = zip(jobs, solutions, running.run(jobs, AHEAD), strict=True)
    counts = [result.counts(0, ids) if job.answers else ([], []) for job, ids, result in results]
    return {"correct": [correct for correct, _ in counts], "count": [count for _, count in counts]}
