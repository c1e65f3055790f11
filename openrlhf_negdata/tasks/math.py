r"""MATH: competition problems whose answer is an expression (Hendrycks et al. 2021, arXiv 2103.03874).

The answer of a response is what its last balanced ``\boxed{...}`` holds. It is compared with the gold answer by
math-verify, gold first, because its comparison is not symmetric. A step ends where a line or a sentence does, never
inside mathematics.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from math_verify import parse, verify
from math_verify.parser import LatexExtractionConfig

from openrlhf_negdata.tasks import CORRECT, NO_ANSWER, WRONG, Graded, Problem, Task
from openrlhf_negdata.tasks.ends import find_ends
from openrlhf_negdata.tasks.gsm8k import last_boxed

# It warns of the timeouts that are off here on purpose: its SIGALRM cannot stop arithmetic on huge integers.
logging.getLogger("math_verify").setLevel(logging.ERROR)

#: Only what is in the box is read, and all of it: math-verify must not look for numbers elsewhere.
_BOX_ONLY = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]


class Math(Task):
    name = "math"
    slow_grader = True

    def problem(self, row: dict, number: int) -> Problem:
        r"""A row as MATH has it, ``{"problem", "solution"[, "answer"]}``, or one with ``question`` and ``gold``."""
        if "gold" not in row:
            solution = str(row["solution"])
            gold = row.get("answer", last_boxed(solution))
            if gold is None:
                # A few of the published solutions write \boxed 2 without braces.
                bare = re.findall(r"\\boxed\s+([^\s$]+)", solution)
                if not bare:
                    raise ValueError("no answer, and no \\boxed{...} in the solution")
                gold = bare[-1]
            row = {"id": row.get("unique_id", number), **row, "question": row["problem"], "gold": gold}
        return super().problem(row, number)

    def prompt(self, question: str) -> str:
        return f"Problem: {question}\nPut the final answer in \\boxed{{}}.\nSolution:\n"

    def step_ends(self, text: str) -> list[int]:
        return find_ends(text, "sentence")

    def extract(self, response: str) -> str | None:
        """The final answer as it is written in ``response``; None if nothing is boxed."""
        return last_boxed(response) or None

    def grade(self, gold: str, response: str) -> Graded:
        """Compare what is boxed with ``gold``.

        On some input this runs for hours and cannot be interrupted: :mod:`openrlhf_negdata.grading` runs it in
        processes that can be killed.
        """
        answer = self.extract(response)
        if answer is None:
            return Graded(NO_ANSWER, None)
        gold = gold.strip().strip("$").strip()
        right = gold == answer or verify(_parse(gold), _parse(answer), timeout_seconds=None)
        return Graded(CORRECT if right else WRONG, answer)

    def warm_up(self) -> None:
        # The first expression of its kind takes a hundred times as long to parse as the next.
        for answer in (r"\frac{3}{2}+x^2", r"2\sqrt{3}", "(1,2]", r"\{1,2\}"):
            self.grade("1", f"\\boxed{{{answer}}}")


def _parse(answer: str) -> list[Any]:
    return parse(f"\\boxed{{{answer}}}", extraction_config=_BOX_ONLY, parsing_timeout=None)


task = Math()
