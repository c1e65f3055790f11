"""What is asked of step advantages in PPO: flags, what a prompt carries to the engines, and which of OpenRLHF's flags
do not go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.flags import flag
from openrlhf_negdata.grading import TIMEOUT
from openrlhf_negdata.steps import PRESETS

#: Before the names of our flags, and of what is logged.
SECTION = "step_advantage"


@dataclass(frozen=True)
class StepAdvantage:
    """How answers are graded and their steps valued. ``identity`` is that of the task."""

    task: str = flag(None, "what the problems are: a built-in task, or the path of a .py file (required)")
    n_rollouts: int = flag(8, "rollouts before every step of every answer", least=1)
    steps: str = flag("task", "where steps end", choices=tuple(PRESETS))
    best_of: int = flag(1, "Q is that of the policy's best of so many rollouts: 1 the policy itself", least=1)
    grading: str = flag(
        "strict",
        "flexible (gsm8k alone): an answer that announces none has the last number that stands in it",
        choices=("strict", "flexible"),
    )
    timeout: float = flag(TIMEOUT, "seconds that a slow grader has for an answer", above=0)
    skip_all_right: bool = flag(False, "no rollouts and no advantage where all answers to a prompt are right")
    skip_all_wrong: bool = flag(False, "no rollouts and no advantage where all answers to a prompt are wrong")
    identity: str = ""


@dataclass(frozen=True, eq=False)
class Asked:
    """The label of a prompt on its way to the engines. ``prompt_ids``: what is asked, to the token. ``valued``:
    whether the steps of its answers are valued, which those of an evaluation are not. ``n_answers``: how many are
    sampled. Two labels are the same if they are one object: a prompt may come twice at a time."""

    gold: str
    prompt_ids: list[int]
    settings: StepAdvantage
    valued: bool
    n_answers: int


#: Flags of OpenRLHF that must have one value, and why. No advantage is what it seems to be with another.
NEEDED: dict[str, tuple[Any, str]] = {
    "algo.advantage.estimator": ("reinforce", "the advantage of a token is its step's, and no other is estimated"),
    "algo.advantage.gamma": (1.0, "the advantage of a step is not discounted"),
    "reward.remote_url": (None, "the grader of --step_advantage.task says what is right"),
    "reward.model_name_or_path": (None, "the grader of --step_advantage.task says what is right"),
    "reward.clip_range": ((-10.0, 10.0), "values of steps are chances of success, which no range of rewards cuts"),
    "reward.normalize_enable": (False, "values of steps are chances of success"),
    "reward.overlong_buffer_len": (None, "it would change the reward and leave the values of the steps as they are"),
    "reward.stop_properly_penalty_coef": (
        None,
        "it would change the reward and leave the values of the steps; an answer that is cut off counts as wrong",
    ),
    "train.agent_func_path": (None, "the executor is that of step advantages"),
    "train.partial_rollout_enable": (False, "an answer and the rollouts from it must be of one policy"),
    "data.input_key": ("input", "the task reads the problems and writes the prompts"),
    "data.label_key": (None, "the task reads the problems and writes the prompts"),
    # Our own flags, which OpenRLHF's command does not see unless they are abbreviated.
    "data.input_template": (None, "write the name of the flag out"),
    "data.apply_chat_template": (False, "write the name of the flag out"),
    "data.prompt_split": ("train", "name the split in --data.prompt_dataset hf:NAME:CONFIG:SPLIT"),
    "eval.split": ("train", "name the split in --eval.dataset hf:NAME:CONFIG:SPLIT"),
    "data.max_images_per_prompt": (0, "prompts are text"),
    "use_ms": (False, "models are folders, or in the Hugging Face cache"),
}
#: Those that OpenRLHF's actors and engines cannot have on CPU.
NEEDED_ON_CPU: dict[str, Any] = {
    "ds.load_in_4bit": False,
    "ds.packing_samples": False,
    "ds.param_dtype": "bf16",
    "ds.ring_attn_size": 1,
    "ds.tensor_parallel_size": 1,
    "ds.use_liger_kernel": False,
    "train.colocate_all": False,
    "train.dynamic_batch_enable": False,
    "train.enable_ema": False,
    "vllm.enable_sleep": False,
    "vllm.sync_with_ray": False,
    "vllm.tensor_parallel_size": 1,
}


def check(flags: Mapping[str, Any], settings: StepAdvantage, on_cpu: bool) -> None:
    """Raise UserError for what would train on other advantages than those of the steps, or could not run.

    ``flags``: OpenRLHF's, by their dotted names, as its command parsed them.
    """
    for name, (needed, reason) in NEEDED.items():
        if _differs(flags[name], needed):
            raise UserError(f"--{name} must be {_told(needed)}, not {_told(flags[name])}: {reason}")
    for name, needed in NEEDED_ON_CPU.items() if on_cpu else ():
        if _differs(flags[name], needed):
            raise UserError(f"--{name} must be {_told(needed)} without CUDA, not {_told(flags[name])}")
    if flags["algo.kl.init_coef"] > 0 and not flags["algo.kl.use_loss"]:
        raise UserError(
            "--algo.kl.init_coef above 0 needs --algo.kl.use_loss: a KL penalty in the reward would be no part of the "
            "values of the steps, and be lost; or give --algo.kl.init_coef 0"
        )
    if flags["rollout.temperature"] <= 0:
        raise UserError("--rollout.temperature must be above 0: values are estimated from samples of this policy")
    if settings.best_of > settings.n_rollouts:
        raise UserError(
            f"--step_advantage.best_of {settings.best_of} needs as many rollouts: --step_advantage.n_rollouts is "
            f"{settings.n_rollouts}"
        )
    for name in ("skip_all_right", "skip_all_wrong"):
        if getattr(settings, name) and flags["rollout.n_samples_per_prompt"] < 2:
            raise UserError(
                f"--{SECTION}.{name} needs --rollout.n_samples_per_prompt 2 at least: a single answer would be "
                "skipped for what it is itself"
            )
    for name in ("actor.model_name_or_path", "data.prompt_dataset"):
        if not flags[name]:
            raise UserError(f"--{name} is required")
    if not flags["vllm.num_engines"]:
        raise UserError("--vllm.num_engines must be at least 1: answers and rollouts are drawn by vLLM")


def _differs(given: Any, needed: Any) -> bool:
    return list(given) != list(needed) if isinstance(needed, tuple) else given != needed


def _told(value: Any) -> str:
    if value is None or value is False:
        return "left out"
    if value is True:
        return "given"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
