"""The executor of PPO with step advantages: an answer is sampled, graded, and its steps are valued by rollouts.

``RolloutRayActor`` loads this file by path, for ``--train.agent_func_path``. What a prompt's label holds is
:class:`openrlhf_negdata.ppo.settings.Asked`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import torch
from openrlhf.utils.agent import SingleTurnAgentExecutor

from openrlhf_negdata.grading import Grader
from openrlhf_negdata.ppo.settings import SECTION, Asked, StepAdvantage
from openrlhf_negdata.records import CORRECT, FAILED, NO_ANSWER, TIMED_OUT, StepValues
from openrlhf_negdata.rollouts import engines
from openrlhf_negdata.rollouts.engines import Continuation, Request, Sampling
from openrlhf_negdata.rollouts.executor import generate
from openrlhf_negdata.rollouts.sampling import decode_responses
from openrlhf_negdata.steps import PRESETS, split_steps
from openrlhf_negdata.steps.credit import credit, spread
from openrlhf_negdata.steps.driver import Generate, ValueJob, ValueResult, ValueRun, actors_grader, value_answers
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.values import Estimator


class _Encoded:
    """In the tokenizer's place where OpenRLHF encodes a prompt (agent.py:216): text need not tell which ids are meant,
    such as a beginning-of-sequence token."""

    def __init__(self, prompt_ids: list[int]) -> None:
        self.prompt_ids = prompt_ids

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        return {"input_ids": torch.tensor([self.prompt_ids])}


class Groups:
    """What the answers to one prompt are, for each of them. OpenRLHF samples them in one call of one engine, side by
    side, and hands each the same label (vllm_engine.py, generate_responses)."""

    def __init__(self) -> None:
        self.waiting: dict[Asked, tuple[list[bool], asyncio.Event]] = {}

    async def all_graded(self, label: Asked, right: bool) -> list[bool]:
        """Waits until all answers to ``label`` are graded. Returns, of each, whether it is right."""
        graded, complete = self.waiting.setdefault(label, ([], asyncio.Event()))
        graded.append(right)
        if len(graded) == label.n_answers:
            del self.waiting[label]
            complete.set()
        await complete.wait()
        return graded


class AgentExecutor(SingleTurnAgentExecutor):
    def __init__(self) -> None:
        super().__init__()
        self.grader: Grader | None = None
        self.groups = Groups()

    async def execute(
        self,
        prompt: Any,
        label: Any,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        """OpenRLHF's sample of one answer, with its grade as the reward: 1 for a correct one, 0 for any other.

        ``extra_logs`` holds the advantage of every token (:func:`by_token`), unless the prompt is one of an
        evaluation, and figures of the answer for the logs.
        """
        began = time.monotonic()
        encoded = _Encoded(label.prompt_ids)
        sample = await super().execute(prompt, label.gold, sampling_params, max_length, encoded, llm_engine, images)
        sampled = time.monotonic()
        ids, ((start, end),) = sample["observation_tokens"], sample["action_ranges"]
        grader = self._grader(label.settings)
        (text,) = decode_responses(hf_tokenizer, [ids[start:end]])
        finish_reason = "length" if sample["truncated"] else "stop"
        grade = await asyncio.wrap_future(grader.submit(label.gold, text, finish_reason))
        reward = float(grade.outcome == CORRECT)
        logs: dict[str, Any] = {
            f"outcome/{outcome}": float(grade.outcome == outcome) for outcome in (NO_ANSWER, TIMED_OUT, FAILED)
        }
        if label.valued:
            most = sampling_params.max_tokens or max(1, max_length - start)
            run = _run_of(label.settings, sampling_params, most)
            job = ValueJob(run, ids[:start], label.gold, [(ids[start:end], grade.outcome)])

            async def draw(request: Request) -> list[Continuation]:
                # As the answer was drawn: by the engine's own generator, and with as many tokens at least.
                params = engines.sampling_params(run.sampling, request.n, request.max_tokens, seed=None)
                params.min_tokens = max(0, sampling_params.min_tokens - (len(request.prompt_ids) - start))
                output = await generate(llm_engine, list(request.prompt_ids), params)
                return [Continuation(list(one.token_ids), one.finish_reason) for one in output.outputs]

            earned, result = await self._valued(label, job, draw, hf_tokenizer, grader)
            logs[SECTION] = by_token(earned, result.step_ends[0], start, max_length)
            logs |= _figures(earned, result)
            spent = time.monotonic()
            logs[f"{SECTION}/rollout_time_share"] = (spent - sampled) / (spent - began)
        return {**sample, "reward": reward, "scores": reward, "extra_logs": logs}

    async def _valued(
        self, label: Asked, job: ValueJob, draw: Generate, tokenizer: Any, grader: Grader
    ) -> tuple[list[float], ValueResult]:
        """What the steps of the answer have earned, and the rollouts that say so: 0 and none where it is skipped."""
        ((token_ids, outcome),) = job.answers
        settings = label.settings
        if settings.skip_all_right or settings.skip_all_wrong:
            right = await self.groups.all_graded(label, outcome == CORRECT)
            if all(right) and settings.skip_all_right or not any(right) and settings.skip_all_wrong:
                steps = await asyncio.to_thread(split_steps, token_ids, tokenizer, grader.task, job.run.segmentation)
                return [0.0] * len(steps), ValueResult(step_ends=[[end for _, end in steps]])
        result = await value_answers(job, draw, tokenizer, grader.task, grader)
        values = StepValues("", 0, result.step_ends[0], *result.counts(0, token_ids))
        return credit(values, outcome, Estimator(best_of=settings.best_of)), result

    def _grader(self, asked: StepAdvantage) -> Grader:
        if self.grader is None:  # all prompts of a run are of one task and one time limit
            self.grader = actors_grader(asked.task, asked.identity, asked.grading, asked.timeout)
        return self.grader


def _run_of(settings: StepAdvantage, params: Any, max_tokens: int) -> ValueRun:
    return ValueRun(
        task=settings.task,
        identity=settings.identity,
        timeout=settings.timeout,
        tokenizer="",
        model="",
        segmentation=PRESETS[settings.steps],
        sampling=Sampling(params.temperature, params.top_p, params.top_k),
        max_tokens=max_tokens,
        budget=Budget(n_rollouts=settings.n_rollouts),
        seed=0,
    )


def by_token(earned: Sequence[float], step_ends: Sequence[int], start: int, max_length: int) -> list[float]:
    """The advantage of every token of prompt and answer but the first, as OpenRLHF's action mask counts them
    (samples_generator.py, ``action_mask[1:truncate_length]``): that of its step, 0 for a token of the prompt.

    ``earned``: a number a step. ``step_ends``: tokens of the answer. ``start``: tokens of the prompt.
    """
    return [*[0.0] * start, *spread(earned, step_ends).tolist()][1:max_length]


def _figures(earned: Sequence[float], result: ValueResult) -> dict[str, float]:
    """What is logged of an answer: OpenRLHF logs the means over the answers of an update."""
    draws = [draw for made in result.draws.values() for draw in made]
    return {
        f"{SECTION}/steps": float(len(earned)),
        f"{SECTION}/rollouts": float(len(draws)),
        f"{SECTION}/skipped": float(not draws),
        f"{SECTION}/rollout_tokens": float(sum(len(draw.token_ids) for draw in draws)),
        f"{SECTION}/first_step": earned[0],
        f"{SECTION}/last_step": earned[-1],
        f"{SECTION}/zero_share": sum(number == 0 for number in earned) / len(earned),
    }
