"""Word problems in plain English, drawn by seed: three or four calculations with whole numbers.

    Nora has 12 shells. She is given 3 bags with 5 shells in each, and then gives 9 shells to Tom. How many ...?

A solution has one calculation a line, ``12 + 15 = 27``, and ends with ``#### 18``. No number is negative or has more
than four digits. The test split has stories of its own: no template of it is in the others. Answers are graded as
GSM8K's are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from openrlhf_negdata.records import Problem
from openrlhf_negdata.tasks.gsm8k import GSM8K
from openrlhf_negdata.tasks.word_templates import KINDS, PEOPLE, TEMPLATES, Template

#: One template in so many is of the test split.
TEST_SHARE = 5
LARGEST = 9999


class WordProblems(GSM8K):
    name = "word_problems"
    instruction = "Write one calculation on each line, such as 12 - 9 = 3. End with #### and the answer."

    def prompt(self, question: str) -> str:
        return f"{question}\n{self.instruction}\n"

    def generate(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        """``count`` different problems."""
        rng, templates, seen = random.Random(f"word_problems {split} {seed}"), of_split(split), set[str]()
        while len(seen) < count:
            template = rng.choice(templates)
            question, lines = write(template, rng)
            if question not in seen:
                gold = lines[-1].split()[-1]
                solution = "\n".join([*lines, f"#### {gold}"])
                yield Problem(f"{split}-{seed}-{len(seen)}", question, gold=gold, solution=solution)
                seen.add(question)


def of_split(split: str) -> list[Template]:
    """The templates of a split: the last of every five are for the test."""
    return [
        template
        for number, template in enumerate(TEMPLATES)
        if (number % TEST_SHARE == TEST_SHARE - 1) == (split == "test")
    ]


def write(template: Template, rng: random.Random) -> tuple[str, list[str]]:
    """A question, and the lines of its solution without the last."""
    lines = None
    while lines is None:
        numbers = {letter: rng.randint(*ends) for letter, ends in template.ranges.items()}
        lines = calculate(template.calculations, numbers)
    she = rng.choice(sorted(PEOPLE))
    name = rng.choice(PEOPLE[she])
    other, third = rng.sample([each for names in PEOPLE.values() for each in names if each != name], 2)
    thing, things = rng.choice(KINDS[template.kind].split(", ")).split()
    story = re.sub(r"\[([^]]*)\]", lambda found: rng.choice(found[1].split("|")), template.story)
    words = {"name": name, "other": other, "third": third, "she": she, "She": she.capitalize()}
    return story.format(**words, **numbers, thing=thing, things=things), lines


def calculate(calculations: tuple[str, ...], numbers: dict[str, int]) -> list[str] | None:
    """A line a calculation; None where a result is no whole number from 1 to ``LARGEST``."""
    known, lines = dict(numbers), []
    for place, calculation in enumerate(calculations, start=1):
        left, sign, right = calculation.split()
        a, b = (int(side) if side.isdecimal() else known[side] for side in (left, right))
        if sign == "/" and a % b:
            return None
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
        if not 1 <= result <= LARGEST:
            return None
        known[f"r{place}"] = result
        lines.append(f"{a} {sign} {b} = {result}")
    return lines


task = WordProblems()
