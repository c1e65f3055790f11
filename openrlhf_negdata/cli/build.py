"""Turn problems, graded answers and step values into a training set, and write a card beside it that accounts for
every one.

    negdata build sft      --input FOLDER --task gsm8k --tokenizer MODEL --output sft.jsonl
    negdata build rft      --input graded --output rft.jsonl
    negdata build dpo      --input graded --output dpo.jsonl
    negdata build step-dpo --input values --pairing siblings --output step_dpo.jsonl

--input is a run folder of `negdata sample`, `grade` or `value`, or a folder of your own with problems.jsonl and, for
rft and dpo, traces.jsonl: rows of `negdata grade` with "problem", the id of their problem. Rows of the set hold text
and token ids: those that were sampled, or, of a folder of your own, those that --tokenizer makes of its text. Without
--tokenizer such a set is text alone, for OpenRLHF's own trainers. The card is OUTPUT.card.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path

from openrlhf_negdata.datasets import dpo, rft, sft, step_dpo
from openrlhf_negdata.datasets.rows import write_card
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import write_jsonl
from openrlhf_negdata.models import load_tokenizer
from openrlhf_negdata.rollouts.sampling import encode_prompt, encode_response
from openrlhf_negdata.rollouts.store import Run, Trace, read_solutions
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import Segmentation, first_step
from openrlhf_negdata.steps.values import PITS, Estimator
from openrlhf_negdata.tasks import Problem, Task, load

ARMS = ("sft", "rft", "dpo", "step-dpo")
PAIRINGS = ("algorithm1", "shared_prefix", "siblings")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arm", choices=ARMS, help="which training set")
    parser.add_argument("--input", required=True, help="run folder, or a folder with problems.jsonl")
    parser.add_argument("--output", required=True, help="the .jsonl file to write")
    parser.add_argument("--task", default=None, help="what the problems are; a run folder says so itself")
    parser.add_argument("--tokenizer", default=None, help="model folder whose tokenizer makes the ids")
    parser.add_argument(
        "--data.apply_chat_template",
        action="store_true",
        help="with --tokenizer: write prompts with its chat template",
    )
    parser.add_argument("--with_solutions", action="store_true", help="rft: the teacher's solutions too")
    parser.add_argument(
        "--per_problem",
        type=int,
        default=-1,
        help="rft: correct answers a problem; dpo: wrong answers a problem; -1: all",
    )
    parser.add_argument("--pairing", choices=PAIRINGS, default="algorithm1", help="step-dpo: how pairs are made")
    parser.add_argument(
        "--pit",
        choices=PITS,
        default=None,
        help="step-dpo, algorithm1 and shared_prefix: which step of a wrong answer lost it (default: lowest_q; where "
        "rollouts were spent on finding one alone, that one)",
    )
    parser.add_argument(
        "--best_of",
        type=int,
        default=1,
        help="step-dpo: Q is that of the best of this many rollouts; the paper's is 5",
    )
    parser.add_argument(
        "--best_of_biased", action="store_true", help="step-dpo: by the form for fewer rollouts, 1 - (1 - c/n)^K"
    )
    parser.add_argument(
        "--confidence", type=float, default=0.9, help="step-dpo, --pit posterior: least chance that the step lost it"
    )
    parser.add_argument(
        "--min_drop",
        type=float,
        default=0.0,
        help="step-dpo, algorithm1 and shared_prefix: least loss of value a pit is blamed for",
    )
    parser.add_argument("--min_gap", type=float, default=0.3, help="step-dpo, siblings: least difference in value")
    parser.add_argument("--min_rollouts", type=int, default=4, help="step-dpo, siblings: rollouts a step is valued by")
    parser.add_argument(
        "--seed", type=int, default=0, help="decides what is drawn at random, and the order of the rows"
    )


def run(args: argparse.Namespace) -> None:
    folder, output = Path(args.input), Path(args.output)
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    is_run = (folder / "manifest.json").is_file()
    made = Run.open(folder) if is_run else None
    identity = {"arm": args.arm, "input": made.manifest["settings"] if made else _digests(folder), **_flags(args)}
    stamp = output.with_name(f".{output.name}.settings.json")
    identity = json.loads(json.dumps(identity))
    if output.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == identity:
        print(f"{output} is complete")
        return
    task = _task(args.task, made)
    if args.arm == "step-dpo":
        if made is None or made.manifest["command"] != "value":
            raise UserError(f"{folder} has no step values: run `negdata value` first and give its output")
        rows, accounts = _step_dpo(args, made, task)
    else:
        problems, traces = _problems_and_traces(args, folder, made, task)
        tokenizer = load_tokenizer(args.tokenizer) if args.tokenizer else made.tokenizer() if made else None
        chat_template = vars(args)["data.apply_chat_template"]
        if made is None and tokenizer is not None:
            asked = {
                problem.id: encode_prompt(tokenizer, task, problem.question, chat_template) for problem in problems
            }
            traces = [
                replace(trace, prompt_ids=asked[trace.problem], token_ids=encode_response(tokenizer, trace.text))
                for trace in traces
            ]
        if args.arm == "dpo":
            rows, accounts = dpo.build(problems, traces, task, tokenizer, args.per_problem, args.seed)
        else:
            rows, accounts = [], []
            if args.arm == "rft":
                rows, accounts = rft.build(problems, traces, task, tokenizer, args.per_problem)
            if args.arm == "sft" or args.with_solutions:
                solutions, account = sft.build(problems, task, tokenizer, chat_template)
                rows, accounts = rows + solutions, accounts + account
    if not rows:
        dropped = {reason: count for account in accounts for reason, count in account.dropped.items()}
        raise UserError(f"{folder}: no row is left for {args.arm} (dropped: {dropped or 'nothing came in'})")
    rows = step_dpo.shuffled(rows, args.seed)
    stamp.unlink(missing_ok=True)
    write_card(output, args.arm, rows, accounts, _flags(args))
    write_jsonl(output, rows)
    write_jsonl(stamp, [identity])
    for account in accounts:
        print(
            f"{output}: {len(rows)} rows; {account.total} {account.unit} in, {account.kept} kept, "
            f"dropped {dict(sorted(account.dropped.items())) or 'none'}"
        )


def _flags(args: argparse.Namespace) -> dict:
    """The flags that decide the content of a set."""
    return {key: value for key, value in vars(args).items() if key not in ("command", "arm", "input", "output")}


def _digests(folder: Path) -> dict[str, str]:
    """The content of a folder that no command of ours made."""
    files = [folder / name for name in ("problems.jsonl", "traces.jsonl") if (folder / name).is_file()]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _task(name: str | None, made: Run | None) -> Task:
    if made is None:
        if name is None:
            raise UserError("--task is needed: the input folder was not made by `negdata sample`")
        return load(name)
    if name is not None and name != made.manifest["settings"]["task"]:
        raise UserError(f"--task {name}: {made.path} was made for task {made.manifest['settings']['task']}")
    return made.task


def _problems_and_traces(
    args: argparse.Namespace, folder: Path, made: Run | None, task: Task
) -> tuple[list[Problem], list[Trace]]:
    if made is None:
        problems, traces = read_solutions(folder, task)
        missing = "traces.jsonl with graded answers"
    else:
        problems = made.problems()
        traces = list(made.read("traces")) if args.arm != "sft" else []
        missing = "graded answers: run `negdata grade` first and give its output"
    if args.arm != "sft" and (not traces or traces[0].outcome is None):
        raise UserError(f"{folder} has no {missing}")
    return problems, traces


def _step_dpo(args: argparse.Namespace, made: Run, task: Task) -> tuple[list, list]:
    tokenizer = made.tokenizer()
    settings = made.manifest["settings"]
    budget = Budget(**settings["budget"])
    if budget.kind != "exhaustive" and (args.pit or args.pairing == "siblings" or args.best_of > 1):
        raise UserError(
            f"{made.path} was valued with --value.budget {budget.kind}, which finds one pit an answer and nothing "
            "else: no --pit, no --best_of, no --pairing siblings"
        )
    if args.best_of < 1 or not 0.5 < args.confidence < 1:
        raise UserError("--best_of must be at least 1, --confidence between 0.5 and 1")
    needed, there = (
        (args.min_rollouts, "--min_rollouts")
        if args.pairing == "siblings"
        else (budget.n_rollouts, "the rollouts a prefix, --value.n_rollouts")
    )
    if needed < args.best_of and not args.best_of_biased:
        raise UserError(
            f"--best_of {args.best_of} needs as many as {there}, and that is {needed} (or --best_of_biased)"
        )
    estimator = Estimator(args.pit or "lowest_q", args.best_of, args.best_of_biased, args.min_drop, args.confidence)
    if args.pairing == "siblings":
        segmentation = Segmentation(**settings["steps"])
        return step_dpo.build_siblings(
            made.read("traces"),
            made.read("rollouts"),
            tokenizer,
            lambda ids: first_step(ids, tokenizer, task, segmentation),
            estimator,
            args.min_gap,
            args.min_rollouts,
            args.seed,
        )
    return step_dpo.build_at_pits(
        args.pairing,
        made.read("traces"),
        made.read("values"),
        made.read("rollouts"),
        tokenizer,
        estimator,
        args.seed,
    )
