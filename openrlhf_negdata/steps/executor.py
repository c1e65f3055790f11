"""The step-advantage executor: values the steps of a problem's answers inside OpenRLHF's rollout actors.

``RolloutRayActor`` loads this file by path, as it loads :mod:`openrlhf_negdata.rollouts.executor`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from openrlhf_negdata.grading import Grader
from openrlhf_negdata.models import load_tokenizer
from openrlhf_negdata.rollouts import executor
from openrlhf_negdata.rollouts.engines import Continuation, Request, sampling_params
from openrlhf_negdata.steps.driver import ValueJob, actors_grader, value_answers
from openrlhf_negdata.tasks import Task


class AgentExecutor(executor.AgentExecutor):
    def __init__(self) -> None:
        super().__init__()
        self.tools: tuple[Any, Task, Grader] | None = None

    async def answer(self, job: Any, llm_engine: Any) -> Any:
        """The ValueResult of a ValueJob; of a list of requests what the executor of plain rollouts makes of it."""
        if not isinstance(job, ValueJob):
            return await super().answer(job, llm_engine)
        run = job.run
        if self.tools is None:  # all jobs of an actor are of one task, one tokenizer and one time limit
            grader = actors_grader(run.task, run.identity, run.grading, run.timeout)
            self.tools = load_tokenizer(run.tokenizer, run.trust_remote_code), grader.task, grader
        counts = Counter[str]()

        async def generate(request: Request) -> list[Continuation]:
            params = sampling_params(run.sampling, request.n, request.max_tokens, request.seed)
            output = await executor.generate(llm_engine, list(request.prompt_ids), params)
            cached = output.num_cached_tokens or 0
            counts.update(prompt_tokens=len(request.prompt_ids) * request.n, cached_tokens=cached * request.n)
            return [Continuation(list(one.token_ids), one.finish_reason) for one in output.outputs]

        result = await value_answers(job, generate, *self.tools)
        result.prompt_tokens, result.cached_tokens = counts["prompt_tokens"], counts["cached_tokens"]
        return result
