"""What `negdata value` asks of the step-advantage executor, and what it gets back: one problem at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from openrlhf_negdata.rollouts.engines import Sampling, content_seed
from openrlhf_negdata.steps.monte_carlo import Budget, Draw, Prefix
from openrlhf_negdata.steps.split import Segmentation


@dataclass(frozen=True)
class ValueRun:
    """What all jobs of a run have in common. ``task`` is a name or a path, and its content must be that of
    ``identity``; ``timeout`` is that of the grader of the answers, in seconds; ``tokenizer`` is a folder, whose code
    is run where ``trust_remote_code``; ``max_tokens`` is the budget of a whole response, prefix and rollout
    together."""

    task: str
    identity: str
    timeout: float
    tokenizer: str
    model: str
    segmentation: Segmentation
    sampling: Sampling
    max_tokens: int
    budget: Budget
    seed: int
    trust_remote_code: bool = False

    def seed_of(self, prompt_ids: list[int], prefix: Prefix) -> int:
        """The seed of the first draw from ``prefix``; the seed of the i-th is i more (vLLM's own rule for n draws of
        one request), so a draw is the same whatever the budget and however many are asked for at once."""
        return content_seed(self.model, vars(self.sampling), self.max_tokens, self.seed, prompt_ids, prefix)


@dataclass(frozen=True)
class ValueJob:
    """The answers to one problem, each its token ids and its outcome."""

    run: ValueRun
    prompt_ids: list[int]
    gold: str
    answers: list[tuple[list[int], str]]


@dataclass
class ValueResult:
    """``step_ends`` and ``pits`` have one entry an answer. ``cached_tokens`` of the ``prompt_tokens`` were found in
    the engine's prefix cache."""

    step_ends: list[list[int]] = field(default_factory=list)
    draws: dict[Prefix, list[Draw]] = field(default_factory=dict)
    pits: list[int | None] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
