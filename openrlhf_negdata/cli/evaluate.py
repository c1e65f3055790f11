"""Measure the test error of one or more policies, greedily, and how likely each is to finish from a right start.

    negdata evaluate --task gsm8k --problems test.jsonl --models sft=runs/sft step_dpo=runs/step_dpo --output
    evaluation

One engine serves all policies: they have one architecture, and only their weights are exchanged. A file ARM.json a
policy; arms that have theirs are not evaluated again.

--q_problems N also estimates, on the first N problems that have a solution, the chance of success (Q) from the prefix
before each step of that solution, by --q_rollouts samples of the policy: Figure 7 of Setlur et al. 2024.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openrlhf_negdata import models
from openrlhf_negdata.cli.sample import add_sampling_flags, check_policy, max_response_tokens, read_sampling
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import only_writer, read_problems, write_json
from openrlhf_negdata.forms import ACCEPTED
from openrlhf_negdata.grading import grade_rows
from openrlhf_negdata.rollouts import engines
from openrlhf_negdata.rollouts.sampling import decode_responses, encode_prompt
from openrlhf_negdata.steps.split import split_steps
from openrlhf_negdata.tasks import CORRECT, OUTCOMES, Problem, Task, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", required=True, help="what the problems are: a built-in task, or the path of a .py file"
    )
    parser.add_argument("--problems", required=True, help=f"held-out problems: {ACCEPTED}")
    parser.add_argument(
        "--models", required=True, nargs="+", metavar="ARM=MODEL", help="policies, each with the name of its arm"
    )
    parser.add_argument("--output", required=True, help="the folder to write")
    parser.add_argument("--q_problems", type=int, default=0, help="problems on which Q by step is estimated; 0: none")
    parser.add_argument("--q_rollouts", type=int, default=8, help="rollouts a prefix for Q by step")
    add_sampling_flags(parser)
    engines.add_flags(parser)


def run(args: argparse.Namespace) -> None:
    flags = vars(args)
    task = load(args.task)
    problems = read_problems(args.problems, task)
    arms: dict[str, Path] = {}
    for word in args.models:
        name, _, model = word.partition("=")
        if not name or not model or name in arms or "/" in name:
            raise UserError(f"--models {word}: write ARM=MODEL, each arm once")
        arms[name] = check_policy(model, flags)
    sampling = read_sampling(flags)
    if args.q_problems < 0 or args.q_rollouts < 1:
        raise UserError("--q_problems must be at least 0 and --q_rollouts at least 1")
    settings = {
        "task": task.identity,
        "problems": len(problems),
        "problems_digest": engines.content_seed(problems),
        "max_tokens": max_response_tokens(task, flags),
        "chat_template": flags["data.apply_chat_template"],
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
    first = next(iter(arms.values()))
    tokenizer = models.load_tokenizer(str(first), flags["model.trust_remote_code"])
    prompts = [encode_prompt(tokenizer, task, problem.question, settings["chat_template"]) for problem in problems]
    longest = settings["max_tokens"] + max(map(len, prompts))
    models.check_length(first, longest)
    write_json(output / "settings.json", settings)
    only_writer(output / ".lock", ["*"])
    owed = owed_now()
    with engines.Engines(first, longest, flags) as running:
        for name, model in tqdm(owed.items(), desc="evaluate", unit="policy"):
            running.load(model)
            result = _greedy(running, problems, prompts, task, tokenizer, settings["max_tokens"])
            result["q_by_step"] = _q_by_step(
                running,
                problems[: args.q_problems],
                prompts,
                task,
                tokenizer,
                settings["max_tokens"],
                args.q_rollouts,
                sampling,
                (revisions[name], args.seed),
            )
            told = {
                "arm": name,
                "model": str(model),
                "revision": revisions[name],
                "task": task.identity,
                "problems": len(problems),
            }
            write_json(output / f"{name}.json", told | result)
    for name in arms:
        wrong = json.loads((output / f"{name}.json").read_text())["wrong"]
        print(f"{name}: test error {100 * sum(wrong) / len(wrong):.1f} % of {len(wrong)} problems")


def _is_done(path: Path, revision: str) -> bool:
    return path.is_file() and json.loads(path.read_text())["revision"] == revision


def _greedy(
    running: engines.Engines,
    problems: list[Problem],
    prompts: list[list[int]],
    task: Task,
    tokenizer: Any,
    max_tokens: int,
) -> dict[str, Any]:
    requests = (engines.Request(prompt, 1, max_tokens, 0) for prompt in prompts)
    answers = [continuations[0] for continuations in running.generate(requests, engines.Sampling(temperature=0.0))]
    texts = decode_responses(tokenizer, [answer.token_ids for answer in answers])
    rows = [(p.gold, text, a.finish_reason) for p, text, a in zip(problems, texts, answers, strict=True)]
    outcomes = [graded.outcome for graded in grade_rows(task, rows)]
    whole = [
        task.trace_right(problem.question, text) and answer.finish_reason == "stop"
        for problem, text, answer in zip(problems, texts, answers, strict=True)
    ]
    counted = Counter(outcomes)
    return {
        "wrong": [int(outcome != CORRECT) for outcome in outcomes],
        "trace_wrong": None if None in whole else [int(not right) for right in whole],
        "outcomes": {outcome: counted[outcome] for outcome in OUTCOMES},
    }


def _q_by_step(
    running: engines.Engines,
    problems: list[Problem],
    prompts: list[list[int]],
    task: Task,
    tokenizer: Any,
    max_tokens: int,
    rollouts: int,
    sampling: engines.Sampling,
    seed: object,
) -> dict[str, list[list[int]]] | None:
    starts: list[tuple[Problem, list[int], list[list[int]]]] = []
    for problem, prompt in zip(problems, prompts, strict=False):
        if problem.solution:
            ids = tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
            starts.append((problem, prompt, [ids[:start] for start, _ in split_steps(ids, tokenizer, task)]))
    if not starts:
        return None
    asked = [
        (problem, prompt, prefix)
        for problem, prompt, prefixes in starts
        for prefix in prefixes
        if len(prefix) < max_tokens
    ]
    requests = (
        engines.Request(
            [*prompt, *prefix], rollouts, max_tokens - len(prefix), engines.content_seed(seed, prompt, prefix)
        )
        for _, prompt, prefix in asked
    )

    def rows() -> Iterator[tuple[str, str, str | None]]:
        for (problem, _, prefix), continuations in zip(asked, running.generate(requests, sampling), strict=True):
            texts = decode_responses(tokenizer, [[*prefix, *c.token_ids] for c in continuations])
            for text, continuation in zip(texts, continuations, strict=True):
                yield problem.gold, text, continuation.finish_reason

    grades = grade_rows(task, rows())  # one pool of graders for all prefixes
    correct, count = [], []
    for _, _, prefixes in starts:
        within = [prefix for prefix in prefixes if len(prefix) < max_tokens]
        right = [sum(next(grades).outcome == CORRECT for _ in range(rollouts)) for _ in within]
        correct.append(right)
        count.append([rollouts] * len(right))
    return {"correct": correct, "count": count}
