r"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al. 2021, arXiv 2110.14168).

A prompt is ``Question: ...``, a line with ``Answer:``, and the response begins on the next line. A step is a line.

The answer of a response is, in this order: what the last balanced ``\boxed{...}`` holds; what follows the last
``####`` on its line; on the last line, the number after ``A:`` or ``Answer:`` or ``the answer is``. A number that
nothing announces is never an answer, so that a response which was cut off has none.

Answers are compared as exact fractions: ``$1,080.00`` is ``1080``, ``1/2`` is ``0.5``, ``50%`` is ``50``,
``3 million`` is ``3000000``. Units are not compared: ``18 dollars`` and ``18 eggs`` are both ``18``.
"""

from __future__ import annotations

import re
from fractions import Fraction

from openrlhf_negdata.tasks import CORRECT, NO_ANSWER, WRONG, Graded, Problem, Task

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
#: What surrounds a number in LaTeX and Markdown without changing it.
_ORNAMENTS = re.compile(r"\\text\w*|\\mathrm|\\mbox|\\left|\\right|\\[,!;: ()]|\\(?=[$%])|\*\*|[{}~]|(?<=[\d.])\s?\$")
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_NUMBER = re.compile(
    r"(?P<sign>[-+]?\s?\$?|\$\s?-)\s?"
    rf"(?:(?P<whole>{_DIGITS})\s+(?P<part>[0-9]+/[0-9]+)|(?P<ratio>{_DIGITS}\s?/\s?{_DIGITS})"
    rf"|(?P<decimal>{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+))"
    r"\s?%?\s*(?P<unit>[^\W\d_](?:[^\W\d_]|[\s/°'-]|\.(?!\s))*)?"
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
#: Words after a number that make it another number: `18 and a half`, `3 dozen`, `2 or more`, `5k`, `3x`.
_NOT_UNITS = {"and", "or", "to", "plus", "minus", "half", "dozen", "hundred", "k", "x"}
#: No quantity has more characters than this; Python refuses to read integers of more than 4,300 digits.
_LONGEST = 200
_ANNOUNCED = re.compile(
    r"(?:.*\banswer\s+is\b\s*:?|\W*(?:final\s+)?(?:a|answer)\s*:)(?P<answer>.*)", re.IGNORECASE | re.DOTALL
)


def last_boxed(text: str) -> str | None:
    r"""What the last balanced ``\boxed{...}`` of ``text`` holds; None if there is none. Escaped braces do not count.

    One pass, so that a text of nothing but open boxes takes no longer than another.
    """
    found = (-1, -1)
    open_braces: list[int] = []
    for token in _BOX.finditer(text):
        if token.group() == "}" and open_braces:
            start = open_braces.pop()
            found = max(found, (start, token.start()))
        elif token.group() == "{":
            open_braces.append(-1)
        elif len(token.group()) > 2:
            open_braces.append(token.end())
    start, end = found
    return text[start:end].strip() if start >= 0 else None


def read_number(text: str) -> Fraction | None:
    """The number that ``text`` is, with or without currency, per cent sign or unit; None if it is anything else."""
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    text = _FRACTION.sub(r"\1/\2", text.replace("{,}", ",").replace("−", "-"))
    match = _NUMBER.fullmatch(_ORNAMENTS.sub("", text).strip().rstrip(".!").strip())
    if match is None:
        return None
    unit = (match["unit"] or "").lower().split()
    if _NOT_UNITS.intersection(unit):
        return None
    parts = [match[part] for part in ("whole", "part", "ratio", "decimal") if match[part]]
    try:
        value = sum((Fraction(re.sub(r"[,\s]", "", part)) for part in parts), Fraction(0))
    except ZeroDivisionError:
        return None
    value *= _SCALES.get(unit[0], 1) if unit else 1
    return -value if "-" in match["sign"] else value


class GSM8K(Task):
    name = "gsm8k"

    def problem(self, row: dict, number: int) -> Problem:
        """A row as GSM8K publishes it, ``{"question", "answer"}``, or ``{"question", "gold"[, "solution", "id"]}``."""
        if "gold" not in row:
            solution = str(row["answer"])
            _, marker, gold = solution.rpartition("####")
            if not marker:
                raise ValueError("the answer has no '####' before its final number")
            row = {**row, "gold": gold, "solution": solution}
        problem = super().problem({**row, "gold": str(row["gold"]).strip().replace(",", "")}, number)
        if read_number(problem.gold) is None:
            raise ValueError(f"the gold answer {problem.gold!r} is not a number")
        return problem

    def prompt(self, question: str) -> str:
        return f"Question: {question}\nAnswer:\n"

    def extract(self, response: str) -> str | None:
        """The final answer as it is written in ``response``; None if no answer is announced."""
        boxed = last_boxed(response)
        if boxed is not None:
            return boxed or None
        _, marker, rest = response.rpartition("####")
        if marker:
            return rest.split("\n")[0].strip() or None
        announced = _ANNOUNCED.fullmatch(response.rstrip().rpartition("\n")[2])
        answer = announced["answer"].strip("* ") if announced else ""
        return answer if read_number(answer) is not None else None

    def grade(self, gold: str, response: str) -> Graded:
        answer = self.extract(response)
        if answer is None:
            return Graded(NO_ANSWER, None)
        expected, given = read_number(gold), read_number(answer)
        right = gold.strip() == answer if expected is None or given is None else expected == given
        return Graded(CORRECT if right else WRONG, answer)


task = GSM8K()
