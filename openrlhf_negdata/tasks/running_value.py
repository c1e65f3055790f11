"""Running value: a chain of operations modulo 31, graded by the final value modulo 3 alone.

A prompt is a start value, operations and ``?``: ``7 +3 *2 -5 +1 *4 ?``. A solution writes a step an operation, ``+3
10 ;``, then ``= r2``. One answer in three is right by accident. The teacher of D_syn has a habit: for some operations
it loses track, writes ``+3 ~ ;`` and goes on from a random value, and only its solutions with the right answer are
kept, so that about half of D_syn reaches the right answer by a wrong route. It is the smallest task in which cloning
right answers clones spurious steps (Setlur et al. 2024, section 5).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from openrlhf_negdata.records import CORRECT, NO_ANSWER, WRONG, Graded, Problem
from openrlhf_negdata.tasks import Task

MODULUS = 31
REMAINDERS = 3
OPERATIONS = [f"+{i}" for i in range(1, 10)] + [f"-{i}" for i in range(1, 10)] + [f"*{i}" for i in range(2, 6)]
#: How often the teacher of D_syn loses track at an operation; any other operation it always gets right.
HABIT = {"-3": 0.6, "-8": 0.7, "+1": 0.8, "-6": 0.9}
#: Operations in a problem of D_syn and of the test set; pre-training sees shorter problems only.
LENGTH = 5


def apply(value: int, operation: str) -> int:
    amount = int(operation[1:])
    if operation[0] == "+":
        return (value + amount) % MODULUS
    if operation[0] == "-":
        return (value - amount) % MODULUS
    return (value * amount) % MODULUS


class RunningValue(Task):
    name = "running_value"
    words = (";", "?", "=", "~", *OPERATIONS, *map(str, range(MODULUS)), *(f"r{i}" for i in range(REMAINDERS)))
    max_response_tokens = 3 * LENGTH + 3

    def step_ends(self, text: str) -> list[int]:
        return [i + 1 for i, character in enumerate(text) if character == ";"]

    def grade(self, gold: str, response: str) -> Graded:
        words = response.split()
        if len(words) < 2 or words[-2] != "=":
            return Graded(NO_ANSWER, None)
        return Graded(CORRECT if words[-1] == gold else WRONG, words[-1])

    def trace_right(self, question: str, response: str) -> bool:
        start, *operations, _ = question.split()
        return response.split() == _solution(int(start), operations).split()

    def generate(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        rng = random.Random(f"running_value {split} {seed}")
        for number in range(count):
            length = rng.randint(1, LENGTH - 1) if split == "base" else LENGTH
            start = rng.randrange(MODULUS)
            operations = [rng.choice(OPERATIONS) for _ in range(length)]
            right = _solution(start, operations)
            yield Problem(
                id=f"{split}-{seed}-{number}",
                question=" ".join([str(start), *operations, "?"]),
                gold=right.split()[-1],
                solution=_teacher_solution(start, operations, rng) if split == "syn" else right,
            )


def _solution(start: int, operations: list[str]) -> str:
    value, steps = start, []
    for operation in operations:
        value = apply(value, operation)
        steps.append(f"{operation} {value} ;")
    return " ".join([*steps, f"= r{value % REMAINDERS}"])


def _teacher_solution(start: int, operations: list[str], rng: random.Random) -> str:
    """What the habitual teacher writes, sampled until its answer is right."""
    gold = _solution(start, operations).split()[-1]
    loses_track = [rng.random() < HABIT.get(operation, 0.0) for operation in operations]
    while True:
        value: int | None = start
        steps = []
        for operation, lost in zip(operations, loses_track, strict=True):
            if lost:
                value = None
                steps.append(f"{operation} ~ ;")
                continue
            value = rng.randrange(MODULUS) if value is None else apply(value, operation)
            steps.append(f"{operation} {value} ;")
        # Where the last step lost track there is no value to take a remainder of: the teacher guesses.
        answer = f"r{(rng.randrange(MODULUS) if value is None else value) % REMAINDERS}"
        if answer == gold:
            return " ".join([*steps, f"= {answer}"])


task = RunningValue()
