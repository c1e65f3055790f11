"""Let a policy answer every problem several times, on OpenRLHF's vLLM actors.

    negdata sample --task gsm8k --problems train.jsonl --model.model_name_or_path MODEL --output traces
    negdata sample ... --dry_run --rate_of RUN        how many tokens and how long it would take

The output folder holds the very token ids the engine sampled. Run again after a kill, it goes on after the last whole
shard; run again when done, it does nothing.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from openrlhf_negdata import cpu, models
from openrlhf_negdata.cli import dry_run
from openrlhf_negdata.cli.progress import Progress
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import read_problems
from openrlhf_negdata.forms import ACCEPTED
from openrlhf_negdata.records import Problem, Trace, content_seed
from openrlhf_negdata.rollouts import engines, prompts
from openrlhf_negdata.rollouts.sampling import answer_problems
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.tasks import Task, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", required=True, help="what the problems are: a built-in task, or the path of a .py file"
    )
    parser.add_argument("--problems", required=True, help=f"the problems: {ACCEPTED}")
    parser.add_argument("--model.model_name_or_path", required=True, help="the policy: a model folder")
    parser.add_argument("--output", required=True, help="the run folder to write")
    parser.add_argument("--rollout.n_samples_per_prompt", type=int, default=8, help="responses a problem")
    parser.add_argument(
        "--shard_size",
        type=int,
        default=256,
        help="problems a shard. A shard is written when all before it are done: a kill costs the problems under way, "
        f"up to {5 * 4 * engines.Engines.BATCH:,} an engine, and a shard",
    )
    add_sampling_flags(parser)
    engines.add_flags(parser)
    dry_run.add_flags(parser, "how many tokens and how long it would take")


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """How a policy is prompted and sampled: the flags of every command that does so."""
    parser.add_argument("--rollout.temperature", type=float, default=0.7, help="sampling temperature")
    add_policy_flags(parser)
    parser.add_argument("--seed", type=int, default=0, help="with the content of a request, decides its draws")


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
    """What a run remembers, beside the temperature, of how its answers were asked for and sampled."""
    parser.add_argument("--rollout.top_p", type=float, default=1.0, help="nucleus sampling: share of probability kept")
    parser.add_argument("--rollout.top_k", type=int, default=-1, help="sample among the k likeliest tokens; -1: all")
    parser.add_argument(
        "--rollout.max_new_tokens",
        type=int,
        default=None,
        help="tokens a response may have in all (default: what a small task needs, else 1024)",
    )
    prompts.add_flags(parser)


def read_sampling(flags: dict) -> engines.Sampling:
    top_p, top_k = flags["rollout.top_p"], flags["rollout.top_k"]
    if flags["rollout.temperature"] <= 0:
        raise UserError("--rollout.temperature must be above 0: values are estimated from samples of this policy")
    if not 0 < top_p <= 1:
        raise UserError(f"--rollout.top_p must be above 0 and at most 1, not {top_p}")
    if top_k != -1 and top_k < 1:
        raise UserError(f"--rollout.top_k must be -1 or at least 1, not {top_k}")
    return engines.Sampling(flags["rollout.temperature"], top_p, top_k)


def max_response_tokens(task: Task, flags: dict) -> int:
    """The token budget of a whole response."""
    given = flags["rollout.max_new_tokens"]
    if given is not None and given < 1:
        raise UserError(f"--rollout.max_new_tokens must be at least 1, not {given}")
    return given or task.max_response_tokens or 1024


def check_policy(name: str, flags: dict) -> Path:
    """The folder of a model that the engines can run, known before anything is written or started: the engines that
    are asked for, too."""
    engines.check(flags)
    model = models.check_model(name, flags["model.trust_remote_code"])
    if cpu.without_cuda():
        models.check_head_size(model)
    return model


def run(args: argparse.Namespace) -> None:
    flags = vars(args)
    if flags["rollout.n_samples_per_prompt"] < 1 or args.shard_size < 1:
        raise UserError("--rollout.n_samples_per_prompt and --shard_size must be at least 1")
    sampling, prompting = read_sampling(flags), prompts.read_flags(flags)
    task = load(args.task)
    problems = read_problems(args.problems, task)
    model = check_policy(flags["model.model_name_or_path"], flags)
    max_tokens = max_response_tokens(task, flags)
    tokenizer = models.load_tokenizer(str(model), flags["model.trust_remote_code"])
    prompts.check_fit(prompting, tokenizer, model)
    encode = prompting.encoder(tokenizer, task)
    asked = {problem.id: len(encode(problem.question)) for problem in problems}
    longest = models.check_length(model, asked, max_tokens)
    settings = {
        "task": task.identity,
        "model": models.revision(model),
        "samples": flags["rollout.n_samples_per_prompt"],
        "sampling": vars(sampling),
        "max_tokens": max_tokens,
        "dtype": engines.dtype(flags),
        "prompting": vars(prompting),
        "seed": args.seed,
        "shard_size": args.shard_size,
        "problems": content_seed(problems),
    }
    if args.dry_run:
        _print_cost(args, settings, problems, sum(asked.values()))
        return
    output = Run.create(args.output, "sample", settings, problems, model, task)
    if output.complete:
        print(f"{args.output} is complete: {output.manifest['counts']}")
        return
    shards = [problems[i : i + args.shard_size] for i in range(0, len(problems), args.shard_size)]
    output.expect(len(shards))
    if owed := output.owed():
        done = len(problems) - sum(len(shards[number]) for number in owed)
        with (
            engines.Engines(model, longest, flags) as running,
            Progress(total=len(problems), initial=done, desc="sample", unit="problem") as bar,
        ):
            answers = answer_problems(
                running,
                [problem for number in owed for problem in shards[number]],
                encode,
                tokenizer,
                samples=settings["samples"],
                sampling=sampling,
                max_tokens=max_tokens,
                seed=(settings["model"], args.seed),
                told=bar.update,
            )
            _write(output, {number: len(shards[number]) for number in owed}, answers, flags["vllm.num_engines"])
    finished = Counter({"stop": 0, "length": 0})  # vLLM has other reasons too, such as abort
    finished.update(str(trace.finish_reason) for trace in output.read("traces"))
    output.finish({"problems": len(problems), "traces": finished.total(), **finished})
    print(f"{args.output}: {output.manifest['counts']}")


def _write(output: Run, owed: dict[int, int], answers: Iterator[list[Trace]], num_engines: int) -> None:
    """Write the shards that are ``owed``, each with its number of problems, as the answers come."""
    begin = time.monotonic()
    for number, problems in owed.items():
        rows = [trace for _ in range(problems) for trace in next(answers)]
        begin, seconds = time.monotonic(), time.monotonic() - begin
        speed = Counter(answers=len(rows), tokens=sum(len(trace.token_ids or ()) for trace in rows))
        output.write("traces", number, rows, dry_run.timed(speed, seconds, num_engines))


def _print_cost(args: argparse.Namespace, settings: dict, problems: list[Problem], prompt_tokens: int) -> None:
    """What a run would cost: answers are expected to be as long as those of the run whose rate is known."""
    flags, count = vars(args), len(problems) * settings["samples"]
    owed = dry_run.owed(Run.check(args.output, "sample", settings, problems))
    found = dry_run.measured(Path(args.output), flags)
    tokens, most, why = count * settings["max_tokens"], "at most ", ""
    if found and found[1]["answers"]:
        tokens, most = min(tokens, round(count * found[1]["tokens"] / found[1]["answers"])), ""
        why = f", if answers are as long as those of {found[0]}"
    print(f"{len(problems):,} problems, {count:,} answers, prompts of {prompt_tokens:,} tokens")
    print(f"{most or 'about '}{tokens:,} tokens to generate{why}")
    print(dry_run.time_of(tokens, owed, found, flags, most))
