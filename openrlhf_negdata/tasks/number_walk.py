"""Number walk: reach a target number with some of the given operations, graded by the whole route.

A prompt is start, target, operations and ``?``: ``12 37 +5 -3 *3 +4 ?``. A solution writes a step an operation,
``+5 17 ;``, each operation used at most once, every value in 0..59, and ends at the target. Because the whole route is
graded, no right answer is right by accident.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from openrlhf_negdata.records import CORRECT, NO_ANSWER, WRONG, Graded, Problem
from openrlhf_negdata.tasks import Task

VALUES = 60
ADDITIVE = [f"+{i}" for i in range(1, 13)] + [f"-{i}" for i in range(1, 13)]
MULTIPLICATIVE = ["*2", "*3", "/2"]
#: Operations offered and operations used by the teacher, in D_syn and the test set.
OFFERED, USED = 4, 3


def apply(value: int, operation: str) -> int | None:
    """The value after ``operation``; None where it is not allowed."""
    amount = int(operation[1:])
    if operation[0] == "/":
        return value // amount if value % amount == 0 else None
    result = {"+": value + amount, "-": value - amount, "*": value * amount}[operation[0]]
    return result if 0 <= result < VALUES else None


class NumberWalk(Task):
    name = "number_walk"
    words = (";", "?", *ADDITIVE, *MULTIPLICATIVE, *map(str, range(VALUES)))
    max_response_tokens = 3 * OFFERED + 2

    def step_ends(self, text: str) -> list[int]:
        return [i + 1 for i, character in enumerate(text) if character == ";"]

    def grade(self, gold: str, response: str) -> Graded:
        """``gold`` is the question: any allowed route to the target is right. The answer is the last value written."""
        start, target, *operations, _ = gold.split()
        words = response.split()
        if len(words) < 3 or len(words) % 3 or any(word != ";" for word in words[2::3]):
            return Graded(NO_ANSWER, None)
        value = int(start)
        left = list(operations)
        for operation, written in zip(words[0::3], words[1::3], strict=True):
            reached = apply(value, operation) if operation in left else None
            if reached is None or str(reached) != written:
                return Graded(WRONG, words[-2])
            left.remove(operation)
            value = reached
        return Graded(CORRECT if str(value) == target else WRONG, words[-2])

    def trace_right(self, question: str, response: str) -> bool:
        return self.grade(question, response).outcome == CORRECT

    def generate(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        rng = random.Random(f"number_walk {split} {seed}")
        for number in range(count):
            if split == "base":
                offered = rng.choice((3, 4, 5))
                question, solution = _draw(rng, offered, used=rng.choice((1, 2, 2, 3)))
            else:
                question, solution = _draw(rng, OFFERED, USED)
            yield Problem(f"{split}-{seed}-{number}", question, gold=question, solution=solution)


def _draw(rng: random.Random, offered: int, used: int) -> tuple[str, str]:
    """A question with ``offered`` operations, one of them multiplicative, and a solution that uses ``used`` of
    them."""
    while True:
        start = rng.randrange(VALUES)
        operations = rng.sample(ADDITIVE, offered - 1) + [rng.choice(MULTIPLICATIVE)]
        rng.shuffle(operations)
        value = start
        route: list[tuple[str, int]] = []
        for operation in rng.sample(operations, used):
            reached = apply(value, operation)
            if reached is None:
                break
            value = reached
            route.append((operation, value))
        else:
            if len({start, *(reached for _, reached in route)}) == used + 1:
                question = " ".join([str(start), str(value), *operations, "?"])
                return question, " ".join(f"{operation} {reached} ;" for operation, reached in route)


task = NumberWalk()
