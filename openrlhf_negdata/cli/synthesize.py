r"""Let a stronger model write new problems and their solutions: D_syn.

    vllm serve MODEL &
    negdata synthesize --task gsm8k --seeds train.jsonl --output syn --server.base_url http://localhost:8000/v1

For each attempt the model is asked for a new problem in the spirit of a seed problem, then to check and mend it, then
to solve it --solutions times. The problem is kept where --agree solutions give the same answer, as the task's grader
sees it, and neither the seeds, nor what was kept before, nor a test set given to --decontaminate holds it.

The output folder has problems.jsonl, which `build sft`, `sample` and the others read; journal.jsonl, every attempt
with every reply; and synthesis.json, settings and counts. Run again after a kill, it goes on with the attempts that
are not in the journal; run again when done, it asks nothing; with a higher --count it makes those that are added.

Nothing is sent but to --server.base_url. The key, if it needs one, comes from the environment and is not written down.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openrlhf_negdata.datasets.decontaminate import HeldOut, normalised
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import only_writer, read_problems, write_json, write_jsonl
from openrlhf_negdata.grading import Grader
from openrlhf_negdata.records import Problem, content_seed
from openrlhf_negdata.rollouts.store import refuse_other_settings
from openrlhf_negdata.synthesis import PLACEHOLDER, read_prompts
from openrlhf_negdata.synthesis.client import ChatServer, Reply
from openrlhf_negdata.synthesis.journal import Journal
from openrlhf_negdata.synthesis.pipeline import DROPPED, KEPT, Recipe, assemble
from openrlhf_negdata.tasks import Task, load

#: What a token is reckoned to be before any is counted.
CHARACTERS_A_TOKEN = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", required=True, help="what the problems are: a built-in task, or the path of a .py file"
    )
    parser.add_argument("--seeds", required=True, help=".jsonl file of real problems to start from")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--count", type=int, help="attempts, each at one new problem; the seeds take turns (default: one a seed)"
    )
    parser.add_argument("--solutions", type=int, default=4, help="solutions asked of each new problem")
    parser.add_argument(
        "--agree",
        type=int,
        help="how many of them must give the same answer, more than half, so that no two answers can (default: the "
        "least that is)",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        help="folder with new_problem.txt, verify.txt and solve.txt (default: ours for the task; docs/synthesize.md "
        "says how to copy and edit them)",
    )
    parser.add_argument(
        "--decontaminate", nargs="+", default=[], metavar="FILE", help=".jsonl files of test problems to keep out"
    )
    parser.add_argument(
        "--ngram", type=int, default=13, help="words in a row that a question may not have in common with a test set"
    )
    parser.add_argument("--seed", type=int, default=0, help="with the content of a request, decides its draws")
    parser.add_argument(
        "--dry_run", action="store_true", help="say what is owed, and roughly the tokens and the cost; ask nothing"
    )
    _add_server_flags(parser)


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server.base_url", default="http://localhost:8000/v1", help="a server with OpenAI's chat completions"
    )
    parser.add_argument("--server.model", help="the model's name there (default: the only one it lists)")
    parser.add_argument(
        "--server.api_key_env",
        metavar="NAME",
        help="environment variable that holds the key (default: NEGDATA_API_KEY, and no key where that is not set)",
    )
    parser.add_argument("--server.concurrency", type=int, default=16, help="requests under way at once")
    parser.add_argument(
        "--server.requests_per_minute", type=float, help="requests sent a minute at most (default: no limit)"
    )
    parser.add_argument("--server.timeout", type=float, default=600, help="seconds that a reply may take")
    parser.add_argument(
        "--server.max_retries", type=int, default=8, help="times a request is sent again that got no reply"
    )
    parser.add_argument(
        "--server.without_seed", action="store_true", help="send no seed, for a server that refuses requests with one"
    )
    parser.add_argument("--sample.temperature", type=float, default=0.7, help="sampling temperature of every request")
    parser.add_argument("--sample.max_tokens", type=int, default=2048, help="tokens a reply may have")


def run(args: argparse.Namespace) -> None:
    flags = vars(args)
    _check(flags)
    task = load(args.task)
    prompts = read_prompts(task, args.prompts)
    seeds = read_problems(args.seeds, task)
    tests = {path: [problem.question for problem in read_problems(path, task)] for path in args.decontaminate}
    count = len(seeds) if args.count is None else args.count
    key = _key(flags["server.api_key_env"])
    manifest = _manifest(args.output)
    settings = _settings(flags, task, prompts, seeds, tests, manifest)
    if manifest:
        refuse_other_settings(args.output, manifest["settings"], settings)
        if manifest["complete"] and manifest["count"] == count and (args.output / "problems.jsonl").is_file():
            print(f"{args.output} is complete: {_ended(manifest['counts'])}")
            return
    if args.dry_run:
        _print_estimate(args, prompts, seeds, _owed(Journal(args.output / "journal.jsonl"), count))
        return
    server = ChatServer(
        flags["server.base_url"],
        key,
        flags["server.concurrency"],
        flags["server.requests_per_minute"],
        flags["server.timeout"],
        flags["server.max_retries"],
    )
    with Grader(task) as grader:
        recipe = Recipe(
            _ask(server, settings),
            prompts,
            grader,
            settings["solutions"],
            settings["agree"],
            args.seed,
            {normalised(problem.question) for problem in seeds},
            HeldOut(tests, args.ngram),
        )
        journal = asyncio.run(_make_attempts(server, recipe, seeds, settings, count, args.output))
    _finish(args, settings, count, journal)


def _settings(
    flags: dict[str, Any],
    task: Task,
    prompts: dict[str, str],
    seeds: list[Problem],
    tests: dict[str, list[str]],
    manifest: dict[str, Any] | None,
) -> dict[str, Any]:
    """What decides the content of the output, but for the number of attempts: more may be added.

    The model is None where the server has yet to say which it has.
    """
    return {
        "task": task.identity,
        "model": flags["server.model"] or (manifest["settings"].get("model") if manifest else None),
        "seeds": content_seed(seeds),
        "prompts": content_seed(prompts),
        "solutions": flags["solutions"],
        "agree": flags["agree"] or flags["solutions"] // 2 + 1,
        "temperature": flags["sample.temperature"],
        "max_tokens": flags["sample.max_tokens"],
        "seed": None if flags["server.without_seed"] else flags["seed"],
        "decontaminate": content_seed(list(tests.values()), flags["ngram"]) if tests else None,
    }


def _ask(server: ChatServer, settings: dict[str, Any]) -> Callable[[str, int], Awaitable[Reply]]:
    """Asks the model of ``settings``, which need not be known before the first request."""

    async def ask(prompt: str, seed: int) -> Reply:
        body = {"model": settings["model"], "messages": [{"role": "user", "content": prompt}]}
        body |= {"temperature": settings["temperature"], "max_tokens": settings["max_tokens"]}
        return await server.ask(body if settings["seed"] is None else {**body, "seed": seed})

    return ask


def _check(flags: dict[str, Any]) -> None:
    """UserError for a flag that nothing can be made with. (A comparison with nan is false.)"""
    for name in ("count", "solutions", "ngram", "server.concurrency", "sample.max_tokens"):
        if flags[name] is not None and not flags[name] >= 1:
            raise UserError(f"--{name} must be at least 1, not {flags[name]}")
    if not flags["server.max_retries"] >= 0:
        raise UserError(f"--server.max_retries must be at least 0, not {flags['server.max_retries']}")
    for name in ("server.requests_per_minute", "server.timeout"):
        if flags[name] is not None and not flags[name] > 0:
            raise UserError(f"--{name} must be above 0, not {flags[name]}")
    if not 0 < flags["sample.temperature"] < math.inf:
        raise UserError("--sample.temperature must be above 0: solutions that nothing sets apart always agree")
    half = flags["solutions"] / 2
    if flags["agree"] is not None and not half < flags["agree"] <= flags["solutions"]:
        raise UserError(
            f"--agree must be more than half of --solutions {flags['solutions']} and at most all, not {flags['agree']}"
        )
    if not flags["server.base_url"].startswith(("http://", "https://")):
        raise UserError(f"--server.base_url {flags['server.base_url']}: must start with http:// or https://")


def _key(name: str | None) -> str | None:
    """The key in the environment variable ``name``; no name: in ours, if it is set."""
    key = os.environ.get(name or "NEGDATA_API_KEY", "").strip()
    if name and not key:
        raise UserError(f"--server.api_key_env {name}: no such environment variable, or nothing in it")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the environment variable {name or 'NEGDATA_API_KEY'} holds what no HTTP header can")
    return key or None


def _manifest(output: Path) -> dict[str, Any] | None:
    """What ``output`` was made with; None where nothing is made yet, perhaps for want of the right model's name."""
    file = output / "synthesis.json"
    if file.is_file():
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            manifest = {key: manifest[key] for key in ("settings", "count", "complete", "counts")}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: not a file of `negdata synthesize`: {error!r}") from None
        return manifest if (output / "journal.jsonl").is_file() else None
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is in the way: it is not a folder")
    if output.exists() and any(not entry.name.startswith(".") for entry in output.iterdir()):
        raise UserError(f"{output} holds files, and no synthesis.json: give another --output")
    return None


def _owed(journal: Journal, count: int) -> list[int]:
    """The attempts that are not made, or that the server failed."""
    return [
        number for number in range(count) if journal.rows.get(number, {"outcome": "failed"})["outcome"] == "failed"
    ]


async def _make_attempts(
    server: ChatServer, recipe: Recipe, seeds: list[Problem], settings: dict[str, Any], count: int, output: Path
) -> Journal:
    """Make the attempts that are owed."""
    async with server:
        if _owed(Journal(output / "journal.jsonl"), count):
            settings["model"] = await _model(server, settings["model"])
        only_writer(output / ".lock", ["*"])
        if manifest := _manifest(output):  # of a command that held the lock until now
            refuse_other_settings(output, manifest["settings"], settings)
        _write_manifest(output, settings, count)
        journal = Journal(output / "journal.jsonl")
        owed = _owed(journal, count)
        numbers = iter(owed)
        said = set[str]()  # of a kind of trouble, the first is told at once
        with tqdm(total=count, initial=count - len(owed), desc="synthesize", unit="attempt") as bar:

            async def work() -> None:
                for number in numbers:
                    row = await recipe.attempt(number, seeds[number % len(seeds)])
                    journal.append(row)
                    bar.update()
                    if row["outcome"] in ("rejected", "failed") and row["outcome"] not in said:
                        said.add(row["outcome"])
                        tqdm.write(f"attempt {number} {row['outcome']}: {row['detail']}", file=sys.stderr)

            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(len(owed), server.concurrency)):
                        workers.create_task(work())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
    return journal


async def _model(server: ChatServer, wanted: str | None) -> str:
    """The model to ask. Asks the server even where it is known: it may not be there."""
    listed = await server.models()
    if wanted is None and len(listed) != 1:
        raise UserError(f"{server.base_url} lists {', '.join(listed) or 'no model'}: name one with --server.model")
    return wanted or listed[0]


def _write_manifest(
    output: Path, settings: dict[str, Any], count: int, counts: dict[str, int] | None = None, complete: bool = False
) -> None:
    manifest = {"settings": settings, "count": count, "complete": complete, "counts": counts or {}}
    write_json(output / "synthesis.json", manifest)


def _finish(args: argparse.Namespace, settings: dict[str, Any], count: int, journal: Journal) -> None:
    problems, ended = assemble(journal.rows[number] for number in range(count))
    counts = {"attempts": count, KEPT: ended[KEPT], **{reason: ended[reason] for reason in DROPPED}, **journal.spent}
    write_jsonl(args.output / "problems.jsonl", problems)
    # An attempt that the server failed is owed.
    _write_manifest(args.output, settings, count, counts, complete=not ended["failed"])
    print(f"{args.output}: {_ended(counts)}")
    print(
        f"{counts['requests']:,} replies, {counts['prompt_tokens']:,} prompt tokens, "
        f"{counts['completion_tokens']:,} completion tokens"
    )
    if counts["uncounted"]:
        print(f"of {counts['uncounted']:,} replies the server counted no tokens")
    if not args.decontaminate:
        print("no test set was kept out: see --decontaminate")
    if ended["failed"]:
        print(f"{ended['failed']:,} attempts failed: run the same command again to make them")


def _ended(counts: dict[str, int]) -> str:
    reasons = ", ".join(f"{counts[reason]:,} {reason}" for reason in DROPPED if counts[reason])
    return f"{counts['attempts']:,} attempts, {counts[KEPT]:,} kept, dropped: {reasons or 'none'}"


def _print_estimate(args: argparse.Namespace, prompts: dict[str, str], seeds: list[Problem], owed: list[int]) -> None:
    """What the attempts that are owed would cost, were each new problem and its solutions as long as its seed's."""
    characters: Counter[str] = Counter()
    for number in owed:
        seed = seeds[number % len(seeds)]
        question, solution = len(seed.question), len(seed.solution or 2 * seed.question)
        asked = {stage: len(prompt) - len(PLACEHOLDER) + question for stage, prompt in prompts.items()}
        characters["prompt"] += asked["new_problem"] + asked["verify"] + args.solutions * asked["solve"]
        # To verify is to solve and then to repeat the question.
        characters["completion"] += 2 * question + (1 + args.solutions) * solution
    prompt, completion = (round(characters[kind] / CHARACTERS_A_TOKEN) for kind in ("prompt", "completion"))
    requests = len(owed) * (2 + args.solutions)
    most = requests * vars(args)["sample.max_tokens"]
    print(f"{len(owed):,} attempts owed, at most {requests:,} requests")
    print(f"about {prompt:,} prompt tokens, {completion:,} completion tokens")
    print(f"at most {most:,} completion tokens")
