"""Write fresh problems of a task that has a generator as JSON Lines: number_walk, running_value, star_graph,
word_problems, reasoning_gym:NAME (docs/tasks.md).

A row is {"id", "question", "gold", "solution"}. Equal arguments give equal files.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import Output, write_jsonl
from openrlhf_negdata.tasks import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, help="which task")
    parser.add_argument(
        "--split",
        choices=("base", "syn", "test"),
        required=True,
        help="base: a mix to pre-train on; syn: D_syn; test: held-out problems",
    )
    parser.add_argument("--count", type=int, required=True, help="how many problems")
    parser.add_argument("--seed", type=int, default=0, help="problems of different seeds are independent draws")
    parser.add_argument("--output", required=True, help="the .jsonl file to write")


def run(args: argparse.Namespace) -> None:
    if args.count < 1:
        raise UserError(f"--count must be at least 1, not {args.count}")
    task = load(args.task)
    settings = {name: vars(args)[name] for name in ("command", "split", "count", "seed")} | {"task": task.identity}
    output = Output(args.output, settings, inputs=[args.task])
    problems = task.generate(args.count, args.seed, args.split)
    output.claim()
    written = write_jsonl(args.output, (asdict(problem) for problem in problems))
    output.commit()
    print(f"{written} problems of {task.name} in {args.output}")
