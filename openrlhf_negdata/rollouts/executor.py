"""What runs inside OpenRLHF's rollout actors: a batch of token-id requests in, sampled token ids out.

``RolloutRayActor`` loads this file by path (vllm_engine.py:19) and hands each call of ``generate_responses`` to
``execute``.
"""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

from openrlhf.utils.agent import AgentExecutorBase

from openrlhf_negdata.errors import UserError


class AgentExecutor(AgentExecutorBase):
    def __init__(self) -> None:
        self.loading = asyncio.Lock()
        self.loaded: str | None = None

    async def execute(
        self,
        prompt: Any,
        label: Any,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> Any:
        """What :meth:`answer` makes of the job ``prompt``.

        ``label`` names the folder of the model that is to answer: where the engine does not hold its weights, they
        take the place of those it holds. Every call names it, since an actor that died begins again with its first.
        """
        await self.load(label, llm_engine)
        return await self.answer(prompt, llm_engine)

    async def answer(self, job: Any, llm_engine: Any) -> Any:
        """``job`` is a list of (token ids, SamplingParams). Returns, a request, its n (token ids, finish reason)."""
        outputs = await asyncio.gather(*(generate(llm_engine, ids, params) for ids, params in job))
        return [[(list(o.token_ids), o.finish_reason) for o in output.outputs] for output in outputs]

    async def load(self, model: str, llm_engine: Any) -> None:
        async with self.loading:
            if self.loaded is None:
                # What is there before the first job stays to the end: else every collection looks at all of vLLM and
                # Ray again, while no answer moves on (vLLM's own servers freeze theirs too).
                gc.collect()
                gc.freeze()
            if model != self.loaded:
                self.loaded = None
                for failure in await llm_engine.llm.collective_rpc("load_folder", args=(model,)):
                    if failure:
                        raise UserError(f"{model}: its weights cannot be loaded: {failure}")
                await llm_engine.llm.reset_prefix_cache()
                self.loaded = model


async def generate(llm_engine: Any, prompt_ids: list[int], params: Any) -> Any:
    """vLLM's RequestOutput. Where its engine process has died, the actor dies too, so that Ray starts both again."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        return await llm_engine.generate(prompt_ids, params)
    except EngineDeadError:
        os._exit(1)
