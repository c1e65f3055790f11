"""What a kill may cost: how many jobs are under way, or done and not yet handed on, when the oldest one hangs."""

import argparse
import json
import subprocess
import sys

from openrlhf_negdata.cli import sample, value
from openrlhf_negdata.rollouts.engines import Engines
from openrlhf_negdata.steps.driver import AHEAD

#: Two actors on a private Ray, without vLLM. The first job hangs until it is let go; all others are done at once.
#: Prints how many were taken by then, and what came out in the end. What is done is told of while it is held back.
HELD_BACK = """
import asyncio, json, sys, threading, time
from pathlib import Path
from openrlhf_negdata.rollouts.engines import Engines, ask_for_a_token
ask_for_a_token()
import ray

go = Path(sys.argv[1])

class Actor:
    async def generate_responses(self, prompt, **_):
        while prompt == 0 and not go.exists():
            await asyncio.sleep(0.02)
        return [prompt]

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
running = Engines(Path("model"), 1, {})
running.actors = [ray.remote(Actor).options(num_cpus=0).remote() for _ in range(2)]
taken, came, told = [], [], []

def jobs():
    for number in range(100):
        taken.append(number)
        yield number

consumer = threading.Thread(target=lambda: came.extend(running.run(jobs(), 4, told.append)))
consumer.start()
before = 0
while not taken or len(taken) > before:
    before = len(taken)
    time.sleep(2)
held = len(taken)
assert not came
assert sorted(told) == list(range(1, len(told) + 1)) and len(told) > 4 * 4
go.touch()
consumer.join()
assert sorted(told) == list(range(100))
print(json.dumps([held, came]))
"""


def test_a_kill_costs_no_more_than_the_help_of_shard_size_says(tmp_path):
    """Behind the oldest job fewer jobs are held back than five times what the engines are given at once, and more than
    four times. In the help of `sample` a job is a batch of problems, in that of `value` a problem."""
    words = [sys.executable, "-c", HELD_BACK, str(tmp_path / "go")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    held, came = json.loads(done.stdout.splitlines()[-1])
    assert came == list(range(100))
    assert 4 * 4 * 2 < held < 5 * 4 * 2
    for command, an_engine in ((sample, 5 * 4 * Engines.BATCH), (value, 5 * AHEAD)):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        (flag,) = [action for action in parser._actions if action.dest == "shard_size"]
        assert f"up to {an_engine:,} an engine" in flag.help
