"""What runs inside OpenRLHF's rollout actors: a batch of token-id requests in, sampled token ids out.

``RolloutRayActor`` loads this file by path (vllm_engine.py:19) and hands each call of ``generate_responses`` to
``execute``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from openrlhf.utils.agent import AgentExecutorBase


class AgentExecutor(AgentExecutorBase):
    async def execute(
        self,
        prompt: Any,
        label: Any,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> list[list[tuple[list[int], str]]]:
        """``prompt`` is a list of (token ids, SamplingParams). Returns, a request, its n (token ids, finish reason).

        Where ``label`` names a model folder, that model's weights take the place of the engine's first.
        """
        if label is not None:
            await llm_engine.llm.collective_rpc("reload_weights", kwargs={"weights_path": label})
            await llm_engine.llm.reset_prefix_cache()
        outputs = await asyncio.gather(*(llm_engine.generate(ids, params) for ids, params in prompt))
        return [[(list(o.token_ids), o.finish_reason) for o in output.outputs] for output in outputs]
