r"""Grade answers.

  negdata grade --task gsm8k --input answers.jsonl --output graded.jsonl

Each line of the input is {"gold": ..., "response": ...}, perhaps with "finish_reason". Each is written back, in order,
with "outcome" (correct, wrong, truncated, no_answer, timed_out or failed) and "answer" (what was extracted, or null)
added and all other fields kept. A response is whole where its finish_reason is "stop" or null; with any other, such as
"length", it is truncated whatever it says. Where "response" is a list of answers to one problem, "outcome" and
"answer" are lists too. The output appears whole or not at all, and replaces no file but one that `negdata grade` made.
Run again, the command grades again: grading is cheap, and nothing less shows that an output belongs to its input.

  negdata grade --input runs/sampled --output runs/graded

Grades the traces of a run made by `negdata sample`, shard by shard: shards that are there are not made again, and a
complete output is left alone. The task is the one the run was sampled for; of a task of your own, name its file again:
no code that a folder carries is run unasked.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import Output, read_file, write_jsonl
from openrlhf_negdata.forms import FILES
from openrlhf_negdata.grading import TIMEOUT, check_finish_reason, grade_rows
from openrlhf_negdata.records import CORRECT, NO_ANSWER, OUTCOMES, WRONG
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.tasks import Task, load

#: A share of whole answers without an answer from which it is said.
MUCH = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", help="a built-in task, or the path of a .py file; of a run of a built-in task: its own"
    )
    parser.add_argument("--input", type=Path, required=True, help=f"{FILES}; or the folder of a complete run")
    parser.add_argument("--output", type=Path, required=True, help="the .jsonl file, or the folder, to write")
    add_grader_flags(parser)


def add_grader_flags(parser: argparse.ArgumentParser) -> None:
    add_grading_flag(parser)
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT, help="seconds a slow grader, such as that of math, has for an answer"
    )
    parser.add_argument("--workers", type=int, help="processes that a slow grader runs in; default: one a core")


def add_grading_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grading",
        choices=("strict", "flexible"),
        default="strict",
        help="flexible (gsm8k alone): a response that announces no answer has the last number that stands in it",
    )


def check_grader_flags(args: argparse.Namespace) -> None:
    if args.timeout <= 0:
        raise UserError(f"--timeout {args.timeout:g}: must be more than 0 seconds")
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")


def run(args: argparse.Namespace) -> None:
    check_grader_flags(args)
    if args.input.resolve() == args.output.resolve():
        raise UserError(f"--output {args.output} is the input: give another")
    if args.input.is_dir():
        _grade_run(args)
    else:
        _grade_file(args)


def _grade_file(args: argparse.Namespace) -> None:
    if args.task is None:
        raise UserError("--task is required where the input is a file")
    if args.output.is_dir():
        raise UserError(f"--output {args.output} is a folder, and the input is a file: give the path of a file")
    task = load(args.task).graded_by(args.grading)
    settings = {
        "command": "grade",
        "task": task.identity,
        "grading": args.grading,
        "timeout": args.timeout,
        "input": args.input.name,
    }
    output = Output(args.output, settings, inputs=[args.input, args.task])

    # Read twice, so that a malformed last row is found before the first is graded, and rows are never all in memory.
    def parse(row: dict[str, Any], _: int) -> dict[str, Any]:
        return _check_answers(row, task)

    total = sum(1 for _ in read_file(args.input, parse))
    if not total:
        raise UserError(f"{args.input}: no rows in it")
    counts: Counter[str] = Counter()
    unread = ""

    def graded_rows() -> Iterator[dict[str, Any]]:
        nonlocal unread
        grades = grade_rows(
            task,
            (answer for row in read_file(args.input, parse) for answer in _answers(row, task)),
            args.timeout,
            args.workers,
        )
        for row in tqdm(read_file(args.input, parse), total=total, desc="grade", unit="row", disable=None):
            graded = [next(grades) for _ in _answers(row, task)]
            outcomes, answers = [one.outcome for one in graded], [one.answer for one in graded]
            counts.update(outcomes)
            for (_, response, _), outcome in zip(_answers(row, task), outcomes, strict=True):
                if outcome == NO_ANSWER:
                    unread = response
            if not isinstance(row["response"], list):
                yield {**row, "outcome": outcomes[0], "answer": answers[0]}
            else:
                yield {**row, "outcome": outcomes, "answer": answers}

    output.claim()
    write_jsonl(args.output, graded_rows())
    output.commit()
    print(f"{args.output}: {_summary(counts)}")
    warn_of_no_answers(task, counts, unread)


def _check_answers(row: dict[str, Any], task: Task) -> dict[str, Any]:
    for _gold, response, reason in _answers(row, task):
        if not isinstance(response, str):
            raise ValueError(f"response is {response!r}, not text")
        check_finish_reason(reason)
    return row


def _answers(row: dict[str, Any], task: Task) -> list[tuple[str, Any, Any]]:
    """The gold answer, the response and the finish reason of each answer in a row."""
    gold, responses, reasons = task.read_gold(row["gold"]), row["response"], row.get("finish_reason")
    if not isinstance(responses, list):
        return [(gold, responses, reasons)]
    reasons = reasons if isinstance(reasons, list) else [reasons] * len(responses)
    if len(reasons) != len(responses):
        raise ValueError(f"response is a list of {len(responses)}, finish_reason of {len(reasons)}")
    return [(gold, response, reason) for response, reason in zip(responses, reasons, strict=True)]


def _grade_run(args: argparse.Namespace) -> None:
    source = Run.open(args.input)
    settings = source.manifest["settings"]
    task = source.task(args.task).graded_by(args.grading)
    if not source.shards:
        raise UserError(f"{args.input} has no traces: give a run made by `negdata sample`")
    problems = source.problems()
    # What the input is, not where it lies: graded traces of different policies never mix, and folders may be moved.
    output = Run.create(
        args.output,
        "grade",
        {"task": settings["task"], "grading": args.grading, "timeout": args.timeout, "input": settings},
        problems,
        source.path,
        task,
    )
    if output.complete:
        print(f"{args.output}: already complete, nothing to do")
        return
    gold = {problem.id: problem.gold for problem in problems}
    output.expect(source.shards)
    owed = output.owed()
    rows = (
        (gold[trace.problem], trace.text, trace.finish_reason)
        for shard in owed
        for trace in source.read("traces", shard)
    )
    # One pool of graders for all shards; it is ahead of what is written by no more than it needs to be kept busy.
    grades = grade_rows(task, rows, args.timeout, args.workers)
    done = source.shards - len(owed)
    for shard in tqdm(owed, total=source.shards, initial=done, desc="grade", unit="shard", disable=None):
        output.write(
            "traces",
            shard,
            (
                replace(trace, outcome=graded.outcome, answer=graded.answer)
                for trace in source.read("traces", shard)
                for graded in (next(grades),)
            ),
        )
    counts = output.outcomes("traces")
    output.finish({"traces": counts.total(), **{outcome: counts[outcome] for outcome in OUTCOMES}})
    print(f"{args.output}: {_summary(counts)}")
    unread = (trace.text for trace in output.read("traces") if trace.outcome == NO_ANSWER)
    warn_of_no_answers(task, counts, next(unread, ""))


def warn_of_no_answers(task: Task, counts: Counter[str], example: str) -> None:
    """Say so on stderr where the grader found no answer in much of what was whole: then it is most often the prompt
    that asked for none, and not the policy that had none. ``example`` is one such response."""
    whole = sum(counts[outcome] for outcome in (CORRECT, WRONG, NO_ANSWER))
    if counts[NO_ANSWER] <= MUCH * whole:
        return
    mend = "" if task.grading == task.gradings[-1] else f", or grade with --grading {task.gradings[-1]}"
    asks = f' ("{task.instruction}")' if task.instruction else ""
    print(
        f"warning: in {counts[NO_ANSWER]:,} of {whole:,} whole responses the task {task.name} can read no answer, "
        f"such as one that ends ...{example[-100:]!r}. Ask for it: for an instruct model sample with "
        f"--data.apply_chat_template{asks}, or with --data.input_template{mend}",
        file=sys.stderr,
    )


def _summary(counts: Counter[str]) -> str:
    return f"{counts.total()} graded: " + ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES)
