"""A task of one's own with a slow grader: right is what equals the gold answer; some responses misbehave."""

import os
import sys
import time
from pathlib import Path

from openrlhf_negdata.records import CORRECT, WRONG, Graded
from openrlhf_negdata.tasks import Task


class Slow(Task):
    name = "slow"
    slow_grader = True

    def grade(self, gold: str, response: str) -> Graded:
        # The file SHOWN gets each response graded, on a line.
        with open(os.environ.get("SHOWN", os.devnull), "a") as file:
            file.write(f"{response}\n")
        word, _, path = response.partition(" ")
        if word == "raise":
            raise SystemExit("no")
        if word == "die":
            os._exit(9)
        if word == "modules":
            return Graded(CORRECT, str(bool({"torch", "pytest"} & set(sys.modules))))
        if word == "nap":
            time.sleep(0.5)
        # The first time only: say who I am, in the file at the path, then wait to be killed.
        if word == "wait" and not Path(path).exists():
            Path(path).write_text(str(os.getpid()))
            time.sleep(60)
        return Graded(CORRECT if gold == response else WRONG, response)


task = Slow()
