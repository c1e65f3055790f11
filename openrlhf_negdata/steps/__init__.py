"""Steps of a response: where they lie, what they are worth."""

from openrlhf_negdata.steps.split import split_steps

__all__ = ["split_steps"]
