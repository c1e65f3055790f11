"""OpenRLHF's PPO with the advantage of every step estimated by rollouts, in the place of one advantage an answer.

    python -m openrlhf_negdata.cli.train_ppo_ray --step_advantage.task gsm8k --data.prompt_dataset problems.jsonl
    --actor.model_name_or_path MODEL --algo.advantage.estimator reinforce --algo.kl.init_coef 0 --vllm.num_engines 4
    --vllm.enable_prefix_caching --ckpt.output_dir OUT [flags of openrlhf.cli.train_ppo_ray]

Every answer that the policy samples is graded by the task and valued by rollouts of the policy that sampled it, in
the same engines; every token of a step has the advantage of its step. The trainer, its losses, logs and checkpoints
are OpenRLHF's, and so are all other flags. --data.prompt_dataset and --eval.dataset are problems, in any form that
`negdata sample` reads. What it costs, and which flags do not go with it: docs/ppo.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from openrlhf_negdata import cpu, host, models
from openrlhf_negdata.errors import ENDS, UserError, end
from openrlhf_negdata.files import read_problems, replacing
from openrlhf_negdata.flags import add_flags, made
from openrlhf_negdata.help import HelpFormatter
from openrlhf_negdata.ppo.settings import SECTION, StepAdvantage, check
from openrlhf_negdata.records import Problem
from openrlhf_negdata.rollouts import engines, prompts
from openrlhf_negdata.tasks import Task, load

MODULE = "openrlhf.cli.train_ppo_ray"


def make_parser() -> argparse.ArgumentParser:
    """Our own flags; what it does not know is OpenRLHF's."""
    parser = argparse.ArgumentParser(
        prog="train_ppo_ray",
        usage="python -m openrlhf_negdata.cli.train_ppo_ray --step_advantage.task TASK [flags]",
        description=__doc__,
        formatter_class=HelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    add_flags(parser, StepAdvantage, f"{SECTION}.")
    parser.add_argument(
        "--model.trust_remote_code", action="store_true", help="run Python code that the model folder carries"
    )
    prompts.add_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run OpenRLHF's command, ``argv`` its words and ours. Returns the exit status."""
    parser = make_parser()
    ours, theirs = parser.parse_known_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)
    try:
        if {"-h", "--help"} & {*theirs}:
            parser.print_help()
            print("\nThe flags of OpenRLHF's command:\n", flush=True)
            run(theirs, lambda flags, on_cpu: None)
        else:
            settings, task = asked(vars(ours), made(StepAdvantage, ours, f"{SECTION}."))
            run(theirs, lambda flags, on_cpu: prepare(flags, vars(ours), settings, task, on_cpu))
    except (Exception, KeyboardInterrupt) as error:
        reason = cause(error)
        if "ray" in sys.modules:
            import ray

            ray.shutdown()  # what actors have to say comes before the last line
        if not isinstance(reason, ENDS):
            raise
        return end(parser.prog, reason)
    return 0


def asked(ours: dict[str, Any], settings: StepAdvantage) -> tuple[StepAdvantage, Task]:
    """The settings with what identifies their task, and the task. Raises what can be known to be wrong at once."""
    if settings.task is None:
        raise UserError(f"--{SECTION}.task is required: what the problems are")
    prompts.read_flags(ours)
    task = load(settings.task).graded_by(settings.grading)
    return dataclasses.replace(settings, task=task.source or settings.task, identity=task.identity), task


def run(words: list[str], prepare: Callable[[dict[str, Any], bool], None]) -> None:
    """Run OpenRLHF's command. ``prepare`` is given the flags that it parsed from ``words``, to change them, and
    whether this is a host without CUDA."""
    host.check_release()
    # Where Ray runs already, its nodes may have CUDA though this one has none.
    on_cpu = cpu.without_cuda() and "RAY_ADDRESS" not in os.environ
    if on_cpu:
        engines.ask_for_a_token()
        cpu.setup_ray_worker()
    import openrlhf.utils.config as config

    hierarchize = config.hierarchize

    def prepared(flat: argparse.Namespace) -> Any:
        prepare(vars(flat), on_cpu)
        return hierarchize(flat)

    # OpenRLHF's command calls it once, with what it parsed, before it looks at that or starts anything.
    config.hierarchize = prepared
    sys.argv = [sys.argv[0], *words]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


def cause(error: BaseException) -> BaseException:
    """What ended a run: ``error`` itself, or what an actor of Ray raised, or that one died."""
    if "ray" in sys.modules:
        from ray.exceptions import RayActorError, RayTaskError

        while isinstance(error, RayTaskError):
            error = error.cause
        if isinstance(error, RayActorError):
            return UserError(
                "an engine, a model or the trainer died; the same command with --ckpt.load_enable goes on from the "
                f"last checkpoint (--ckpt.save_steps). {' '.join(str(error).split())}"
            )
    return error


def prepare(flags: dict[str, Any], ours: dict[str, Any], settings: StepAdvantage, task: Task, on_cpu: bool) -> None:
    """Check what OpenRLHF's command parsed, and change ``flags`` to what it is to run with. ``ours``: our own."""
    from openrlhf_negdata.ppo import trainer

    check(flags, settings, on_cpu)
    model = models.check_model(flags["actor.model_name_or_path"], ours["model.trust_remote_code"])
    limit = models.longest_sequence(model)
    if limit is not None and flags["data.max_len"] > limit:
        raise UserError(f"--data.max_len {flags['data.max_len']}: {model} takes {limit} tokens at most")
    tokenizer = models.load_tokenizer(str(model), ours["model.trust_remote_code"])
    prompting = prompts.read_flags(ours)
    prompts.check_fit(prompting, tokenizer, model)
    encode = prompting.encoder(tokenizer, task)
    room = flags["data.max_len"] - (flags["rollout.max_new_tokens"] or 1)
    for flag in ("data.prompt_dataset", "eval.dataset"):
        if flags[flag]:
            path = Path(flags["ckpt.path"]).absolute() / "prompts" / f"{flag}.jsonl"
            write_prompts(read_problems(flags[flag], task), encode, tokenizer, room, path)
            flags[flag] = str(path)
    flags["data.label_key"] = "label"
    flags["train.agent_func_path"] = str(Path(trainer.__file__).with_name("executor.py"))
    flags[SECTION] = settings
    trainer.install()
    if on_cpu:
        models.check_head_size(model)
        if flags["ds.attn_implementation"].startswith("flash_attention"):
            flags["ds.attn_implementation"] = "sdpa"
        flags["ds.param_dtype"] = cpu.precision()
        models_of = ("actor", "ref") if flags["algo.kl.init_coef"] > 0 else ("actor",)
        processes = sum(flags[f"{name}.num_nodes"] * flags[f"{name}.num_gpus_per_node"] for name in models_of)
        cpu.start_ray(flags["vllm.num_engines"], processes)


def write_prompts(
    problems: Iterable[Problem], encode: Callable[[str], list[int]], tokenizer: Any, room: int, path: Path
) -> None:
    """Write ``problems`` as OpenRLHF reads prompts: a text to be shown, and as the label the gold answer and the ids
    of the prompt.

    UserError where a prompt has more than ``room`` tokens: OpenRLHF would cut it at its start (agent.py:226).
    """
    with replacing(path) as file:
        for problem in problems:
            ids = encode(problem.question)
            if len(ids) > room:
                raise UserError(
                    f"the prompt of problem {problem.id} has {len(ids):,} tokens, and --data.max_len less "
                    f"--rollout.max_new_tokens leaves {room:,}: raise --data.max_len, or leave the problem out"
                )
            label = json.dumps({"gold": problem.gold, "prompt_ids": ids})
            print(json.dumps({"input": tokenizer.decode(ids), "label": label}), file=file)


if __name__ == "__main__":
    sys.exit(main())
