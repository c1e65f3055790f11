"""A progress bar for work that engines do."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class Progress(tqdm):
    """The time that is left is told by the rate of this whole run, from the first result on: engines work on many
    things at once, so results come in bursts, and a rate of the last moments would jump with them."""

    def __init__(self, **about: Any) -> None:
        super().__init__(smoothing=0, **about)
