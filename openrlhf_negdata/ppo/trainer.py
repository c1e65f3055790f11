"""OpenRLHF's PPO trainers with step advantages. ``install`` puts them where its command looks for its own."""

from __future__ import annotations

from typing import Any

import openrlhf.trainer.ppo_trainer as host
import openrlhf.trainer.ppo_trainer_async as host_async
import ray

from openrlhf_negdata.ppo.experience import StepAdvantageExperienceMaker, StepAdvantageSamplesGenerator

# Ray does not let its actor classes be subclassed, but the classes that they are made of.
_PPOTrainer: Any = host.PPOTrainer.__ray_actor_class__
_GenerateSamplesActor: Any = host_async.GenerateSamplesActor.__ray_actor_class__
_TrainingActor: Any = host_async.TrainingActor.__ray_actor_class__


@ray.remote
class StepAdvantagePPOTrainer(_PPOTrainer):
    samples_generator: Any
    experience_maker: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.samples_generator = StepAdvantageSamplesGenerator.like(self.samples_generator)
        self.experience_maker = StepAdvantageExperienceMaker.like(self.experience_maker)


@ray.remote
class StepAdvantageGenerateSamplesActor(_GenerateSamplesActor):
    samples_generator: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.samples_generator = StepAdvantageSamplesGenerator.like(self.samples_generator)


@ray.remote
class StepAdvantageTrainingActor(_TrainingActor):
    experience_maker: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.experience_maker = StepAdvantageExperienceMaker.like(self.experience_maker)


def install() -> None:
    """openrlhf/cli/train_ppo_ray.py imports the trainer when it trains, and Ray sends the asynchronous one to its
    actor with what it names, so that rebinding names in this process is enough."""
    host.PPOTrainer = StepAdvantagePPOTrainer
    host_async.GenerateSamplesActor = StepAdvantageGenerateSamplesActor
    host_async.TrainingActor = StepAdvantageTrainingActor
