"""running_value that a policy with random weights is right at now and then: a whole answer with an odd number of
words is right. A step is four words."""

import re

from openrlhf_negdata.tasks import CORRECT, WRONG, Graded
from openrlhf_negdata.tasks.running_value import RunningValue


class Parity(RunningValue):
    name = "parity"

    def step_ends(self, text: str) -> list[int]:
        return [match.end() for match in re.finditer(r"\S+", text)][3::4]

    def grade(self, gold: str, response: str) -> Graded:
        words = response.split()
        return Graded(CORRECT if len(words) % 2 else WRONG, str(len(words)))


task = Parity()
