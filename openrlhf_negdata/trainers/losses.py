"""The loss of a pair: DPO's and its kin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class DPOLoss:
    """The loss of each pair, of its sides' log-probabilities under the policy and the reference.

    With the implicit reward ``r = log pi - log pi_ref`` of each side and the margin ``m = r_chosen - r_rejected``:
    ``-(1 - s) log sigmoid(beta m) - s log sigmoid(-beta m)`` with ``s`` the ``label_smoothing`` (conservative DPO), or
    ``(m - 1 / (2 beta))^2`` with ``ipo`` (Azar et al. 2023, equation 17). ``positive_penalty`` takes
    ``max(0, -r_chosen)``, so often, from the margin (DPO-Positive, Pal et al. 2024, equation 3).
    """

    beta: float
    label_smoothing: float = 0.0
    ipo: bool = False
    positive_penalty: float = 0.0

    def __call__(self, chosen_reward: torch.Tensor, rejected_reward: torch.Tensor) -> torch.Tensor:
        margin = chosen_reward - rejected_reward - self.positive_penalty * torch.relu(-chosen_reward)
        if self.ipo:
            return (margin - 1 / (2 * self.beta)) ** 2
        right, flipped = F.logsigmoid(self.beta * margin), F.logsigmoid(-self.beta * margin)
        return -(1 - self.label_smoothing) * right - self.label_smoothing * flipped
