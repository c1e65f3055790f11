"""running_value, graded by every token of the response: two policies with equal figures have written the same."""

from openrlhf_negdata.records import CORRECT, WRONG, Graded
from openrlhf_negdata.tasks.running_value import RunningValue


class AnyAnswer(RunningValue):
    name = "any_answer"

    def grade(self, gold: str, response: str) -> Graded:
        return Graded(CORRECT if sum(map(ord, response)) % 2 else WRONG, response)


task = AnyAnswer()
