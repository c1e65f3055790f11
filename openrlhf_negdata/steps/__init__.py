"""Steps of a response: where they lie, what they are worth."""

from openrlhf_negdata.steps.split import PRESETS, Segmentation, first_step, split_steps

__all__ = ["PRESETS", "Segmentation", "first_step", "split_steps"]
