"""What runs inside vLLM's workers where new weights come without CUDA."""

from __future__ import annotations

from typing import Any

from openrlhf_negdata.rollouts.worker import WeightsWorker


class StoreWeightsWorker(WeightsWorker):
    """In the place of OpenRLHF's WorkerWrap (openrlhf/trainer/ray/vllm_worker_wrap.py), which receives into CUDA
    memory and loads weight by weight. vLLM on CPU repacks its linear layers, so that one weight alone is not loaded:
    all are kept until the last is there, and loaded as vLLM reloads a model."""

    def init_process_group(
        self,
        master_address: str,
        master_port: int,
        rank_offset: int,
        world_size: int,
        group_name: str,
        backend: str,
        use_ray: bool,
    ) -> None:
        import torch.distributed
        from vllm.distributed.utils import StatelessProcessGroup

        rank = torch.distributed.get_rank() + rank_offset
        self.group: Any = StatelessProcessGroup.create(
            host=master_address, port=master_port, rank=rank, world_size=world_size
        )
        self.arrived: list[tuple[str, Any]] = []

    def update_weight(self, name: str, dtype: Any, shape: Any, empty_cache: bool = False) -> None:
        """``empty_cache`` comes with the last weight (ppo_actor.py:428)."""
        self.arrived.append((name, self.group.broadcast(None, src=0)))
        if empty_cache:
            arrived, self.arrived = self.arrived, []
            if failure := self.reload(weights_iterator=iter(arrived)):
                raise RuntimeError(f"the policy's weights cannot be loaded: {failure}")
