r"""MATH: competition problems whose answer is an expression (Hendrycks et al. 2021, arXiv 2103.03874).

The answer of a response is what its last balanced ``\boxed{...}`` holds, or a list of what the last ones hold. It is
compared with the gold answer by math-verify, gold first, because its comparison is not symmetric. A step ends where a
line or a sentence does, never inside mathematics.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from math_verify import parse, verify
from math_verify.parser import LatexExtractionConfig

from openrlhf_negdata.records import Problem
from openrlhf_negdata.tasks import Task
from openrlhf_negdata.tasks.answers import last_boxed, last_boxes, plain, without_thinking
from openrlhf_negdata.tasks.ends import find_ends

# It warns of the timeouts that are off here on purpose: its SIGALRM cannot stop arithmetic on huge integers.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_TYPE = re.compile(r"\\(?:text\w*|math(?:rm|bf|it)|mbox)\s*\{([^{}]*)\}")
#: A base, as in ``11_{2}``: math-verify passes over it, and over a scale in words.
_BASE = re.compile(r"(?<=\d)_\s*(?:\{\s*)?(\w+|\\text\{\w+\})")
_SCALE = re.compile(
    r"(\d(?:\s|~|\\[,!; ])*)(\\(?:text\w*|mathrm|mbox)\s*\{\s*)?\b(thousand|million|billion|trillion)s?\b"
)
_THIN_SPACE = re.compile(r"(?<=\d)(?:\\[,;:]|~)(?=\d{3}(?!\d))")
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
#: Only what is in the box is read, and all of it: math-verify must not look for numbers elsewhere.
_BOX_ONLY = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]


class Math(Task):
    name = "math"
    instruction = "Reason step by step, and put the final answer in \\boxed{}."
    slow_grader = True

    def problem(self, row: dict, number: int) -> Problem:
        r"""A row as MATH has it, ``{"problem", "solution"}``, as competition sets have it, ``{"problem", "answer"}``,
        or one with ``question`` and ``gold``."""
        if "gold" not in row:
            gold = row.get("answer")
            if gold is None and (gold := last_boxed(str(row["solution"]))) is None:
                raise ValueError("no answer, and no \\boxed{...} in the solution")
            row = {"id": row.get("unique_id", number), **row, "question": row["problem"], "gold": gold}
        return super().problem(row, number)

    def read_gold(self, gold: object) -> str:
        """An expression, with or without dollars, in a box, or at the end of a whole solution."""
        text = super().read_gold(gold)
        return (last_boxed(text) or text).strip().strip("$").strip()

    def prompt(self, question: str) -> str:
        return f"Problem: {question}\nPut the final answer in \\boxed{{}}.\nSolution:\n"

    def step_ends(self, text: str) -> list[int]:
        return find_ends(text, "sentence")

    def extract(self, response: str) -> str | None:
        """The final answer as it is written in ``response``; None if nothing is boxed."""
        return ", ".join(box.content for box in last_boxes(plain(without_thinking(response)))) or None

    def is_right(self, gold: str, answer: str) -> bool:
        """Compare what is boxed with ``gold``.

        On some input this runs for hours and cannot be interrupted: :mod:`openrlhf_negdata.grading` runs it in
        processes that can be killed.
        """
        gold = self.read_gold(gold)
        if _plain(gold) == _plain(answer):
            return True
        if (bases := _bases(answer)) and bases != _bases(gold):
            return False
        return bool(verify(_parse(gold), _parse(answer.rstrip(". ")), timeout_seconds=None))

    def warm_up(self) -> None:
        # The first expression of its kind takes a hundred times as long to parse as the next.
        for answer in (r"\frac{3}{2}+x^2", r"2\sqrt{3}", "(1,2]", r"\{1,2\}"):
            self.grade("1", f"\\boxed{{{answer}}}")


def _plain(answer: str) -> str:
    """An answer in words without what only sets it in another type."""
    return " ".join(_TYPE.sub(r" \1 ", answer).rstrip(". ").split())


def _bases(answer: str) -> set[str]:
    """The bases that ``answer`` names, but for ten."""
    return {_plain(base) for base in _BASE.findall(answer)} - {"10"}


def _parse(answer: str) -> list[Any]:
    answer = _THIN_SPACE.sub("", answer)
    answer = _SCALE.sub(lambda found: rf"{found[1]}\cdot 10^{{{_POWERS[found[3]]}}}{found[2] or ''}", answer)
    return parse(f"\\boxed{{{answer}}}", extraction_config=_BOX_ONLY, parsing_timeout=None)


task = Math()
