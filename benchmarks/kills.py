"""kill -9 at random moments of `negdata value`: what is lost, and whether the tables come out the same.

    python benchmarks/kills.py --kills 20         # after `make quickstart`, whose answers and model it uses

Kills, in turn: the driver; a rollout actor; its engine process; a grading process; a whole Ray node with the actor,
of two that have room for it, both on this machine. A run that ends with an error is run again, as a user would. Each
is then compared with an undisturbed run: rollouts whose tokens or outcome differ, and values that differ. The last
line is the share of runs whose tables are equal.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from prefixes import first_problems

from openrlhf_negdata.rollouts.store import Run

KINDS = ("driver", "actor", "engine", "grader", "node")
#: How the process to kill is called. A grading process is one of a fork server's workers.
TITLES = {"actor": "ray::RolloutRayActor", "engine": "VLLM::EngineCore", "grader": "openrlhf_negdata.grading.worker"}
#: The quickstart's task with a grader that runs in processes of its own.
TASK = """
from openrlhf_negdata.tasks.running_value import RunningValue
class Slow(RunningValue):
    slow_grader = True
task = Slow()
"""


def ray_start(*flags: str) -> subprocess.Popen:
    """A Ray node in the foreground; ending the process ends the node."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *flags]
    environment = os.environ | {"RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def below(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def find(roots: list[int], title: str) -> list[psutil.Process]:
    found = []
    for process in [process for root in roots for process in below(root)]:
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_tree(pid: int) -> None:
    for process in below(pid):
        with suppress(psutil.Error):
            process.kill()
    with suppress(psutil.Error):
        psutil.Process(pid).kill()


class Value:
    def __init__(self, graded: Run, model: str, output: Path, *flags: str) -> None:
        self.output = output
        self.command = [sys.executable, "-m", "openrlhf_negdata.cli.main", "value", "--input", str(graded.path)]
        self.command += ["--model.model_name_or_path", model, "--shard_size", "8", "--output", str(output), *flags]

    def start(self) -> subprocess.Popen:
        log = self.output.with_suffix(".log").open("a")
        return subprocess.Popen(self.command, stdout=log, stderr=log)

    def finish(self) -> int:
        """Run until it ends well; returns how often it had to be run."""
        for number in range(1, 6):
            if self.start().wait() == 0:
                return number
        sys.exit(f"{self.output} does not come to its end: see its log")


def content(run: Run, table: str) -> list[dict[str, Any]]:
    return [vars(row) for row in run.read(table)]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--input", default="runs/quickstart/graded", help="a run of `negdata grade` on running_value")
    flags.add_argument("--model", default="runs/quickstart/models/sft", help="the policy that wrote it")
    flags.add_argument("--problems", type=int, default=120, help="value the answers of this many problems")
    flags.add_argument("--kills", type=int, default=20, help="runs, each killed once")
    flags.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what is killed, in turn")
    flags.add_argument("--seed", type=int, default=0, help="decides the moments")
    args = flags.parse_args()
    rng = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    (folder / "task.py").write_text(TASK)
    graded = first_problems(args.input, args.problems, folder / "graded", str(folder / "task.py"))
    alone = folder / "alone"
    Value(graded, args.model, alone).finish()
    truth = Run.open(alone)
    seconds = truth.speed("values")["seconds"]
    print(f"undisturbed: {len(content(truth, 'rollouts')):,} rollouts in {seconds:.0f} s", flush=True)
    equal = 0
    for number in range(args.kills):
        kind = args.kinds[number % len(args.kinds)]
        nodes: list[subprocess.Popen] = []
        extra: tuple[str, ...] = ()
        if kind == "node":
            nodes = [ray_start("--head", "--port", "6399", "--num-cpus", "1", "--num-gpus", "0")]
            time.sleep(8)
            for _ in range(2):
                nodes.append(ray_start("--address", "127.0.0.1:6399", "--num-cpus", "2", "--num-gpus", "1"))
                time.sleep(8)
            extra = ("--ray.address", "127.0.0.1:6399")
        value = Value(graded, args.model, folder / f"{number}", *extra)
        driver = value.start()
        roots = [driver.pid, *(node.pid for node in nodes)]
        while driver.poll() is None and not find(roots, "ray::RolloutRayActor.generate_responses"):
            time.sleep(0.2)
        moment = rng.uniform(0, seconds)
        time.sleep(moment)
        killed = ""
        if kind == "driver":
            driver.kill()
            killed = "driver"
        elif kind == "node":
            if holder := [node for node in nodes[1:] if find([node.pid], TITLES["actor"])]:
                killed = kind
                kill_tree(holder[0].pid)
        elif there := find(roots, TITLES[kind]):
            victim = rng.choice(there)
            killed = kind
            victim.kill()
        status = driver.wait()
        done = 1 if status == 0 else 1 + value.finish()
        for node in nodes:
            kill_tree(node.pid)
        run = Run.open(value.output)
        differ = {
            table: sum(a != b for a, b in zip(content(run, table), content(truth, table), strict=True))
            for table in ("rollouts", "values")
        }
        equal += not any(differ.values())
        print(
            f"{number + 1:2} {killed or 'too late: ' + kind:24} after {moment:5.1f} s: ended with {status}, "
            f"run {done} time(s), {differ['rollouts']} rollouts and {differ['values']} values differ",
            flush=True,
        )
    print(f"{folder} holds the runs and their logs")
    print(f"ratio {equal / args.kills:.2f}")


if __name__ == "__main__":
    main()
