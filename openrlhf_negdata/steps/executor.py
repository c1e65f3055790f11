"""The step-advantage executor: values the steps of a problem's answers inside OpenRLHF's rollout actors.

``RolloutRayActor`` loads this file by path, as it loads :mod:`openrlhf_negdata.rollouts.executor`.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from openrlhf_negdata import tasks
from openrlhf_negdata.grading import Grader
from openrlhf_negdata.models import load_tokenizer
from openrlhf_negdata.rollouts import executor
from openrlhf_negdata.rollouts.engines import sampling_params
from openrlhf_negdata.rollouts.sampling import decode_responses
from openrlhf_negdata.steps.jobs import ValueJob, ValueResult
from openrlhf_negdata.steps.monte_carlo import Answer, Draw, Prefix, value_problem
from openrlhf_negdata.steps.split import split_steps
from openrlhf_negdata.tasks import CORRECT


class AgentExecutor(executor.AgentExecutor):
    def __init__(self) -> None:
        super().__init__()
        self.tools: tuple[tasks.Task, Any, Grader] | None = None

    async def answer(self, job: ValueJob, llm_engine: Any) -> ValueResult:
        run, result = job.run, ValueResult()
        if self.tools is None:  # an actor serves one run
            task = tasks.load(run.task, run.identity)
            # A node may hold eight actors.
            workers = max(2, len(os.sched_getaffinity(0)) // 8)
            self.tools = task, load_tokenizer(run.tokenizer, run.trust_remote_code), Grader(task, run.timeout, workers)
        task, tokenizer, grader = self.tools

        def cut(token_ids: list[int], outcome: str) -> Answer:
            ends = [end for _, end in split_steps(token_ids, tokenizer, task, run.segmentation)]
            return Answer(token_ids, ends, outcome == CORRECT)

        # Long answers take a while, and the rollouts of other problems must not wait for that.
        answers = [await asyncio.to_thread(cut, *answer) for answer in job.answers]

        async def roll_out(prefix: Prefix, first: int, count: int) -> list[Draw]:
            seed = run.seed_of(job.prompt_ids, prefix) + first
            params = sampling_params(run.sampling, count, run.max_tokens - len(prefix), seed)
            output = await executor.generate(llm_engine, [*job.prompt_ids, *prefix], params)
            made = [list(one.token_ids) for one in output.outputs]
            result.prompt_tokens += len(output.prompt_token_ids) * count
            result.cached_tokens += (output.num_cached_tokens or 0) * count
            texts = decode_responses(tokenizer, [[*prefix, *ids] for ids in made])
            asked = [
                grader.submit(job.gold, text, one.finish_reason)
                for text, one in zip(texts, output.outputs, strict=True)
            ]
            # Most grades are there at once, and to wait for one by the event loop costs more than to make it.
            grades = [one.result() if one.done() else await asyncio.wrap_future(one) for one in asked]
            return [Draw(ids, grade.outcome) for ids, grade in zip(made, grades, strict=True)]

        result.step_ends = [list(answer.step_ends) for answer in answers]
        result.draws, result.pits = await value_problem(answers, run.budget, roll_out)
        return result
