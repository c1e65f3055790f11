"""Where OpenRLHF makes experience of samples: prompts say what is asked of them, tokens get the advantage of their
step."""

from __future__ import annotations

import json
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from openrlhf_negdata.ppo.settings import SECTION, Asked


class StepAdvantageSamplesGenerator(SamplesGenerator):
    """Hands the executor, with every prompt, the settings, and whether its answers are valued."""

    valued = True

    @classmethod
    def like(cls, host: SamplesGenerator) -> StepAdvantageSamplesGenerator:
        return cls(host.strategy, host.prompts_dataloader, host.eval_dataloader, host.tokenizer, host.vllm_engines)

    def generate_eval_samples(self, **kwargs: Any) -> Any:
        self.valued = False
        try:
            return super().generate_eval_samples(**kwargs)
        finally:
            self.valued = True

    def _dispatch_prompts_to_vllm(self, prompts: Any, labels: Any, **kwargs: Any) -> Any:
        n_answers = kwargs.get("n_samples_per_prompt", self.args.rollout.n_samples_per_prompt)  # as OpenRLHF reads it
        more = {"settings": self.args.step_advantage, "valued": self.valued, "n_answers": n_answers}
        asked = [Asked(**json.loads(label), **more) for label in labels]
        return super()._dispatch_prompts_to_vllm(prompts, asked, **kwargs)


class StepAdvantageExperienceMaker(RemoteExperienceMaker):
    """Puts the executor's advantages in the place of those that OpenRLHF computes: neither whitened nor scaled."""

    @classmethod
    def like(cls, host: RemoteExperienceMaker) -> StepAdvantageExperienceMaker:
        groups = (host.actor_model_group, host.critic_model_group, host.reward_model_group, host.initial_model_group)
        return cls(*groups, host.kl_ctl, host.strategy, host.tokenizer)

    @torch.no_grad()
    def compute_advantages_and_returns(self, experiences: list[Any]) -> list[Any]:
        # Of shape (answers, tokens - 1) each, padded as everything of an experience is.
        advantages = [experience.info.pop(SECTION) for experience in experiences]
        experiences = super().compute_advantages_and_returns(experiences)
        for experience, by_token in zip(experiences, advantages, strict=True):
            put(experience, by_token)
        return experiences


def put(experience: Any, advantages: torch.Tensor) -> None:
    """Give the actions of ``experience`` their ``advantages``, both of shape (answers, tokens - 1).

    Raises:
        ValueError: the two are of other tokens, where nothing would fail and wrong tokens be blamed.
    """
    mask = experience.action_mask
    if advantages.shape != mask.shape:
        raise ValueError(f"advantages of {tuple(advantages.shape)} tokens for actions of {tuple(mask.shape)}")
    if bool((advantages * (mask == 0)).any()) or not bool(advantages.isfinite().all()):
        raise ValueError("a token that is no action has an advantage, or one has none")
    experience.advantages = advantages
    experience.returns = advantages.clone()
