"""A progress bar for work that engines do."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class Progress(tqdm):
    """The time that is left is told by the rate of this whole run: engines work on many things at once, so that what
    is done comes in bursts, and a rate of the last moments would jump with them. Update it as things are done
    (``told`` of the engines): in the order of the work many would wait for one, and the bar with them."""

    def __init__(self, wave: int = 1, **about: Any) -> None:
        """``wave``: how many jobs are begun at once. Until so many are done no rate is told: of all that is under way,
        the first to be done says little."""
        self.wave, self.jobs = wave, 0
        super().__init__(smoothing=0, **about)

    def update(self, n: float | None = 1) -> bool | None:
        self.jobs += 1
        return super().update(n)

    @property
    def format_dict(self) -> dict[str, Any]:
        told = super().format_dict
        return told if self.jobs >= self.wave else told | {"rate": 0}  # tqdm writes ? for a rate of 0
