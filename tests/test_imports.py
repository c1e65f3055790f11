"""Grading, building and reporting must work where nothing heavy is installed, and start at once where it is."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "vllm", "ray", "openrlhf", "deepspeed", "transformers")


@pytest.mark.parametrize(
    "room",
    [
        "tasks.gsm8k",
        "grading",
        "steps",
        "datasets.build",
        "datasets.arms.siblings",
        "cli.report",
        "cli.build",
        "cli.synthesize",
        "cli.train_ppo_ray",
    ],
)
def test_a_room_imports_nothing_heavy(room):
    code = f"import sys, openrlhf_negdata.{room}; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found == "[]\n"


def test_the_contract_of_split_steps_is_importable():
    from openrlhf_negdata.steps import split_steps

    assert split_steps([], None, None) == []
