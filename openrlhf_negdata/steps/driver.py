"""Valuing the answers to a problem with an engine: the one loop of Monte Carlo rollouts.

The step-advantage executor runs it inside OpenRLHF's rollout actors, for `negdata value` and for the Q by step of
`negdata evaluate`. Whoever has an engine of their own calls :func:`value_answers`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openrlhf_negdata.grading import Grader
from openrlhf_negdata.records import CORRECT, Rollout, StepValues, content_seed
from openrlhf_negdata.rollouts.engines import Continuation, Request, Sampling
from openrlhf_negdata.rollouts.sampling import decode_responses
from openrlhf_negdata.steps.monte_carlo import Answer, Budget, Draw, Prefix, value_problem
from openrlhf_negdata.steps.split import Segmentation, next_step, split_steps, step_key
from openrlhf_negdata.tasks import Task, load

#: The file that the rollout actors load, to answer ValueJobs.
EXECUTOR = Path(__file__).with_name("executor.py")
#: Problems an engine works on at a time: their rollouts keep it full.
AHEAD = 64


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
    grading: str = "strict"
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
    the engine's prefix cache, where the engine tells."""

    step_ends: list[list[int]] = field(default_factory=list)
    draws: dict[Prefix, list[Draw]] = field(default_factory=dict)
    pits: list[int | None] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0

    def counts(self, number: int, token_ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Of the answer ``number``, whose tokens are ``token_ids``: how many rollouts from before each step were
        right, and how many were made."""
        prefixes = Answer(token_ids, self.step_ends[number], False).prefixes()
        draws = [self.draws.get(prefix, []) for prefix in prefixes]
        return [sum(draw.outcome == CORRECT for draw in made) for made in draws], [len(made) for made in draws]

    def records(
        self, job: ValueJob, problem: str, samples: Sequence[int] | None = None
    ) -> tuple[list[StepValues], list[Rollout]]:
        """What ``job`` found, as records: the step values of its answers and the rollouts behind them. ``samples``:
        the numbers of the answers; 0, 1, ... where it is None."""
        values, rollouts = [], []
        for prefix, draws in self.draws.items():
            seed = job.run.seed_of(job.prompt_ids, prefix)
            for nth, draw in enumerate(draws):
                rollouts.append(Rollout(problem, list(prefix), draw.token_ids, draw.outcome, seed + nth))
        numbers = range(len(job.answers)) if samples is None else samples
        for i, (sample, (ids, _)) in enumerate(zip(numbers, job.answers, strict=True)):
            values.append(StepValues(problem, sample, self.step_ends[i], *self.counts(i, ids), self.pits[i]))
        return values, rollouts


def actors_grader(task: str, identity: str, grading: str, timeout: float) -> Grader:
    """The grader of a rollout actor, with its task loaded there: a node may hold eight actors."""
    loaded = load(task, identity).graded_by(grading)
    return Grader(loaded, timeout, max(2, len(os.sched_getaffinity(0)) // 8))


#: Draws the continuations of a request from the policy that is valued, as ``job.run.sampling`` says.
Generate = Callable[[Request], Awaitable[list[Continuation]]]


async def value_answers(job: ValueJob, generate: Generate, tokenizer: Any, task: Task, grader: Grader) -> ValueResult:
    """Cut the answers of ``job`` into steps and roll out the prefixes that its budget asks for.

    ``grader`` is that of ``task``. No answer may be longer than ``job.run.max_tokens``. What is asked of ``generate``
    depends on ``job`` alone, so that the draws are the same whoever calls this.
    """
    run, result = job.run, ValueResult()

    def cut(token_ids: list[int], outcome: str) -> Answer:
        ends = [end for _, end in split_steps(token_ids, tokenizer, task, run.segmentation)]
        return Answer(token_ids, ends, outcome == CORRECT)

    # Long answers take a while, and the rollouts of other problems must not wait for that.
    answers = [await asyncio.to_thread(cut, *answer) for answer in job.answers]

    async def roll_out(prefix: Prefix, first: int, count: int) -> list[Draw]:
        seed = run.seed_of(job.prompt_ids, prefix) + first
        request = Request([*job.prompt_ids, *prefix], count, run.max_tokens - len(prefix), seed)
        made = await generate(request)
        texts = decode_responses(tokenizer, [[*prefix, *one.token_ids] for one in made])
        asked = [grader.submit(job.gold, text, one.finish_reason) for text, one in zip(texts, made, strict=True)]
        # Most grades are there at once, and to wait for one by the event loop costs more than to make it.
        grades = [one.result() if one.done() else await asyncio.wrap_future(one) for one in asked]
        return [Draw(one.token_ids, grade.outcome) for one, grade in zip(made, grades, strict=True)]

    def begin(prefix: Prefix, token_ids: Sequence[int]) -> tuple[Prefix, Hashable] | None:
        step = next_step(prefix, token_ids, tokenizer, task, run.segmentation)
        return None if len(step) == len(token_ids) else (step, step_key(step, tokenizer, task))

    async def next_steps(
        prefix: Prefix, continuations: Sequence[Sequence[int]]
    ) -> list[tuple[Prefix, Hashable] | None]:
        return await asyncio.to_thread(lambda: [begin(prefix, ids) for ids in continuations])

    result.step_ends = [list(answer.step_ends) for answer in answers]
    result.draws, result.pits = await value_problem(answers, run.budget, roll_out, next_steps)
    return result
