"""OpenRLHF's PPO trainers with step advantages. ``install`` puts them where its command looks for its own."""

from __future__ import annotations

from typing import Any

import openrlhf.trainer.ppo_trainer as host
import ray

from openrlhf_negdata.ppo.experience import StepAdvantageExperienceMaker, StepAdvantageSamplesGenerator


@ray.remote
class StepAdvantagePPOTrainer(host.PPOTrainer.__ray_actor_class__):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.samples_generator = StepAdvantageSamplesGenerator.like(self.samples_generator)
        self.experience_maker = StepAdvantageExperienceMaker.like(self.experience_maker)


def install() -> None:
    """openrlhf/cli/train_ppo_ray.py imports the trainer when it trains: rebinding its name in this process is
    enough."""
    host.PPOTrainer = StepAdvantagePPOTrainer
