r"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al. 2021, arXiv 2110.14168).

A prompt is ``Question: ...``, a line with ``Answer:``, and the response begins on the next line. A step is a line.

An answer is announced, and the last announcement counts: by ``\boxed{...}``; by ``####`` with a number after it (with
words after it, it is a heading of Markdown); or, where nothing but a closing remark follows, by ``A:``, ``Answer:`` or
``the answer is`` with a number after it. A number that nothing announces is never an answer, so that a
response which was cut off has none, and what is announced but is no number is none either. A thinking block is not
read. With ``flexible`` grading, a response without an answer has the last number that stands in it.

Answers are compared as exact fractions: ``$1,080.00`` is ``1080``, ``1/2`` is ``0.5``, ``2\frac{1}{2}`` is ``2.5``,
``50%`` is ``50``, ``3 million`` is ``3000000``, ``x = 18`` is ``18``. Units are not compared: ``18 dollars`` and ``18
eggs`` are both ``18``.
"""

from __future__ import annotations

import re
from fractions import Fraction

from openrlhf_negdata.records import Problem
from openrlhf_negdata.tasks import Task
from openrlhf_negdata.tasks.answers import last_boxed, last_boxes, without_thinking

_CURRENCY = r"(?:US\s?\$|[$€£¥₹]|(?:USD|EUR|GBP|Rs\.?)(?=\s?[-\d.]))"
#: Macros that only set what they hold in another type.
_TEXT = re.compile(r"\\(?:text\w*|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
#: What surrounds a number in LaTeX and Markdown without changing it.
_ORNAMENTS = re.compile(
    r"\\(?:text\w*|mathrm|mbox|left|right|quad|qquad|displaystyle)(?![a-z])|\\[,!;: ()\[\]]|\\(?=[$%&])|\*\*|__|[`{}~]"
    r"|(?<=[\d.])\s?\$"
)
#: An exponent of a unit, and degrees.
_EXPONENT = re.compile(r"(?<=[A-Za-z])\s*(?:\^\s*\{?\s*[23]\s*\}?|[²³])|\^\s*\{?\s*\\circ\s*\}?")
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?\s?{_CURRENCY}{{0,2}}|{_CURRENCY}\s?-)\s*"
    rf"(?:(?P<whole>{_DIGITS})\s+(?P<part>[0-9]+/[0-9]+)|(?P<ratio>{_DIGITS}\s?/\s?{_DIGITS})"
    rf"|(?P<decimal>{_DIGITS}(?:\.[0-9]+)?\.?|\.[0-9]+))"
    r"\s?[$€£¥₹]?\s?%?\s*(?P<unit>(?:/\s?|per\s)?[^\W\d_](?:[^\W\d_]|[\s/°'’,-]|\.(?=\s?[a-z]))*\.?)?"
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
#: Words after a number that make it another number: `18 and a half`, `3 dozen`, `2 or more`, `5k`, `3x`.
_NOT_UNITS = {"and", "or", "to", "plus", "minus", "times", "half", "dozen", "hundred", "hundreds", "k", "x"}
#: Words before a number in a box that make it another number, or none: `not 18`, `less than 18`, `half of 18`.
_NOT_BEFORE = _NOT_UNITS | {"not", "no", "than", "least", "most", "under", "over", "between", "from", "negative"}
_WORDS_BEFORE = re.compile(r"((?:[^\W\d_]|[\s'’,:-])*[\s:])(?=[-+]?\s?[\d.$€£¥₹])")
#: No quantity has more characters than this; Python refuses to read integers of more than 4,300 digits.
_LONGEST = 200

#: What flexible grading takes for a number: digits with their sign, separators and decimals.
_ANY_NUMBER = re.compile(rf"(?<![\w.])-?{_CURRENCY}?{_DIGITS}(?:\.[0-9]+)?|(?<![\w.])-?\.[0-9]+|[0-9]+(?:\.[0-9]+)?")
_MARKER = re.compile(r"####+([^\n]*)")
#: What begins as a number does, if it is none of a list: there an answer was announced, be it readable or not.
_BEGINS_AS_NUMBER = re.compile(rf"[\s*`({{\\$]*[-+]?\s?(?:{_CURRENCY}\s?)?\.?[0-9](?![0-9]*[.)]\s+[^\W\d])")
_PHRASE = re.compile(
    r"(?:\b(?:answer|result)(?: to (?:the|this)\b[^.\n:\d]{0,80})? (?:is|are)\b\s*:?|\b(?:answer|ans)[*_\s]*[:=]"
    r"|^\W*a[*_]*\s*:|^[#*_\s]*(?:the\s+)?final\s+answer[*_\s]*$)[*_\s]*",
    re.IGNORECASE | re.MULTILINE,
)
#: A sentence ends at its full stop, or with its line. The stop of `sq. ft.` is followed by a small letter.
_SENTENCE = re.compile(r"[^\n]*?(?:[.!](?=[*_$\s]*(?:\s[A-Z]|\n|\Z))[*_$]*|(?=\n|\Z))")
#: What takes an answer back or goes on with it. Whole sentences without are a closing remark.
_DOUBT = re.compile(
    r"\d|\b(?:wait|but|actually|however|no|not|check\w*|verify|hmm|mistake|wrong|incorrect|instead|oops|sorry|rather"
    r"|let's|let us|let me(?! know)|now)\b",
    re.IGNORECASE,
)


def read_number(text: str, boxed: bool = False) -> Fraction | None:
    """The number that ``text`` is, with or without currency, per cent sign or unit; None if it is anything else.
    ``boxed``: words may stand before it, as in a box that holds a sentence."""
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    text = text.replace("{,}", ",").replace("−", "-").replace("–", "-").rpartition("=")[2]
    text = re.sub(r"(?<=\d)[\u2009\u202f\u00a0](?=\d{3}\b)", "", text)
    text = _TEXT.sub(r" \1 ", text)
    text = _FRACTION.sub(lambda found: " {}/{}".format(*filter(None, found.groups())), text)
    text = _ORNAMENTS.sub("", _EXPONENT.sub("", text))
    text = " ".join(re.sub(r"\([^()\d]*\)", "", text).split()).rstrip(".,;:").strip()
    match = _NUMBER.fullmatch(text)
    before = _WORDS_BEFORE.match(text) if boxed and match is None else None
    if before and not _NOT_BEFORE.intersection(re.split(r"\W+", before[1].lower())):
        match = _NUMBER.fullmatch(text, before.end())
    return _value(match) if match else None


def _value(match: re.Match[str]) -> Fraction | None:
    unit = re.split(r"[\s,]+", (match["unit"] or "").lower())
    if _NOT_UNITS.intersection(unit):
        return None
    parts = [match[part].rstrip(".") for part in ("whole", "part", "ratio", "decimal") if match[part]]
    try:
        value = sum((Fraction(re.sub(r"[,\s]", "", part)) for part in parts), Fraction(0))
    except ZeroDivisionError:
        return None
    value *= _SCALES.get(unit[0], 1)
    return -value if "-" in match["sign"] else value


class GSM8K(Task):
    name = "gsm8k"
    gradings = ("strict", "flexible")
    instruction = (
        "Think step by step, each step on a line of its own. End with one more line: #### and then the answer, a "
        "number and nothing else."
    )

    def problem(self, row: dict, number: int) -> Problem:
        """A row as GSM8K publishes it, ``{"question", "answer"}``, or ``{"question", "gold"[, "solution", "id"]}``."""
        if "gold" not in row:
            solution = str(row["answer"])
            if "####" not in solution:
                raise ValueError("the answer has no '####' before its final number")
            row = {**row, "gold": solution, "solution": solution}
        return super().problem(row, number)

    def read_gold(self, gold: object) -> str:
        """A number, as such or at the end of a whole solution, after ``####`` or in a box."""
        text = super().read_gold(gold)
        _, marker, after = text.rpartition("####")
        text = (after if marker else last_boxed(text) or text).strip()
        if read_number(text) is None:
            raise ValueError(f"the gold answer {text!r:.100} is not a number")
        return text.replace(",", "")

    def prompt(self, question: str) -> str:
        return f"Question: {question}\nAnswer:\n"

    def extract(self, response: str) -> str | None:
        """The final answer as it is written in ``response``; None if none is announced, or it is no number."""
        text = without_thinking(response)
        found = [(-1, "", False)]
        if listed := last_boxes(text):
            found.append((listed[-1].start, ", ".join(box.content for box in listed), True))
        found += [
            (marker.start(), marker[1].strip(), False)
            for marker in _MARKER.finditer(text)
            if _BEGINS_AS_NUMBER.match(marker[1])
        ]
        for phrase in _PHRASE.finditer(text):
            sentence = _SENTENCE.match(text, phrase.end())
            if sentence and _BEGINS_AS_NUMBER.match(sentence[0]) and _closes(text[sentence.end() :]):
                found.append((phrase.start(), sentence[0].strip("*_ "), False))
        _, answer, boxed = max(found)
        answer = answer if boxed else answer.rstrip("!")  # in a box it is a factorial
        if read_number(answer, boxed) is not None:
            return answer
        numbers = _ANY_NUMBER.findall(text) if self.grading == "flexible" else []
        return numbers[-1] if numbers else None

    def is_right(self, gold: str, answer: str) -> bool:
        return read_number(gold) == read_number(answer, boxed=True)


def _closes(rest: str) -> bool:
    """Whether ``rest``, after an answer in words, is nothing or a closing remark in whole sentences."""
    return not re.search(r"\w", rest) or (not _DOUBT.search(rest) and re.search(r"[.!?]\W*\Z", rest) is not None)


task = GSM8K()
