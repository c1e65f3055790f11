"""What the processes of a training run agree on. Rank 0 reads and writes files for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from openrlhf_negdata.errors import UserError

Made = TypeVar("Made")


def count() -> int:
    """The number of processes, as the launcher says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def place(strategy: Any) -> dict[str, int]:
    """``rank`` and ``ranks`` among the processes that share an update."""
    import torch.distributed

    group = strategy.ds_device_mesh["dp"].get_group()
    return {"rank": torch.distributed.get_rank(group), "ranks": torch.distributed.get_world_size(group)}


def from_rank_0(make: Callable[[], Made]) -> Made:
    """What rank 0 made, in every process; where that failed, every process raises the same error, so that none waits
    for rank 0 in what all do together. The error has ``told`` set in the others: rank 0 says it."""
    import torch.distributed

    made: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            made[0] = make()
        except (UserError, OSError, ImportError) as error:
            made[1] = error
    torch.distributed.broadcast_object_list(made, src=0)
    if made[1] is not None:
        made[1].told = torch.distributed.get_rank() != 0
        raise made[1]
    return made[0]
