r"""GSM8K: grade-school word problems whose answer is a number (Cobbe et al. 2021, arXiv 2110.14168).

A prompt is ``Question: ...``, a line with ``Answer:``, and the response begins on the next line. A step is a line.

An answer is announced, and the last announcement counts: by ``\boxed{...}`` or ``<answer>...</answer>``; by ``####``
with a number after it (with words after it, it is a heading of Markdown); or, where nothing but a closing remark
follows, by ``A:``, ``Answer:`` or ``the answer is`` with a number after it. A number that nothing announces is never
an answer, so that a response which was cut off has none, and what is announced but is no number is none either. A
thinking block is not read, nor is a next ``Question:`` that a policy writes after its answer. With ``flexible``
grading, a response without an answer has the last number that stands in it.

Answers are compared as exact fractions: ``$1,080.00`` is ``1080``, ``1/2`` is ``0.5``, ``2\frac{1}{2}`` is ``2.5``,
``50%`` is ``50``, ``3 million`` is ``3000000``, ``x = 18`` is ``18``. Units are not compared: ``18 dollars`` and ``18
eggs`` are both ``18``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from fractions import Fraction

from openrlhf_negdata.records import Problem
from openrlhf_negdata.tasks import Task
from openrlhf_negdata.tasks.answers import TAG, last_boxed, last_boxes, plain, without_thinking

_SIGNS = "$€£¥₹₩₽₺₫₱₦"
_CURRENCY = rf"(?:US\s?\$|[{_SIGNS}]|(?:USD|EUR|GBP|Rs\.?)(?=\s?[-\d.]))"
#: Macros that only set what they hold in another type.
_TEXT = re.compile(r"\\(?:text\w*|math(?:rm|bf|it|sf)|mbox|operatorname|underline)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
#: What surrounds a number in LaTeX and Markdown without changing it.
_ORNAMENTS = re.compile(
    r"\\(?:text\w*|mathrm|mbox|left|right|quad|qquad|displaystyle)(?![a-z])|\\[,!;: ()\[\]]|\\(?=[$%&])"
    r"|\*\*|__|[`{}~\"]|(?<=[\d.])\s?\$"
)
#: An exponent of a unit, and degrees.
_EXPONENT = re.compile(r"(?<=[A-Za-z])\s*(?:\^\s*\{?\s*[23]\s*\}?|[²³])|\^\s*\{?\s*\\circ\s*\}?")
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?\s?{_CURRENCY}{{0,2}}|{_CURRENCY}\s?-)\s*"
    rf"(?:(?P<whole>{_DIGITS})\s+(?P<part>[0-9]+/[0-9]+)|(?P<ratio>{_DIGITS}\s?/\s?{_DIGITS})"
    rf"|(?P<decimal>{_DIGITS}(?:\.[0-9]+)?\.?|\.[0-9]+))"
    rf"\s?[{_SIGNS}]?\s?%?\s*(?P<unit>(?:/\s?|per\s)?[^\W\d_](?:[^\W\d_]|[\s/°'’,-]|\.(?=\s?[a-z]))*\.?)?"
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
#: Words that say of a number that it is none of the answer, or its opposite. ``t`` is that of ``isn't``.
_DENIES = {
    *("not", "no", "nope", "never", "cannot", "t", "without", "except", "unlikely", "wrong", "incorrect", "negative"),
    *("nicht", "kein", "keine", "pas", "non", "ne", "nie", "не", "нет"),
}
#: Words after a number that make it another number: `18 and a half`, `3 dozen`, `2 or more`, `5k`, `18 below zero`.
_NOT_UNITS = _DENIES | {
    *("and", "or", "to", "plus", "minus", "times", "half", "halves", "squared", "cubed", "factorial", "k", "x"),
    *("multiplied", "divided", "doubled", "tripled", "halved", "mod", "choose", "power", "below", "maybe"),
    *("dozen", "dozens", "score", "gross", "hundred", "lakh", "lakhs", "crore", "crores", "bn", "mn"),
    *("mil", "mille", "mila", "tausend", "tusen", "duizend"),
}
#: The same by their form: `3 fifths`; `millones`, `Milliarden`, `миллион` of other languages.
_NO_UNIT = re.compile(
    r"(?:third|four|fif|six|seven|eigh|nin|ten|hundred|thousand)(?:th)?s|milliard.*|тыс.*|милли(?:он|ард).*|млн|млрд"
    r"|(?:m|b|tr|quadr)il[lhj]?i?[oóõã][neo].*"
)
#: The units of one letter. Any other letter behind a number is a variable, or a scale: `18n`, `3M`.
_LETTERS = set("mgslhcdpCFLVWJNA")
#: Words before a number in a box that make it another number, or none: `not 18`, `less than 18`, `half of 18`.
_NOT_BEFORE = _NOT_UNITS | {
    *("than", "least", "most", "under", "over", "above", "between", "from", "exceeds", "before", "after", "until"),
    *("of", "double", "twice", "triple", "root", "nearly", "almost", "thousand", "million", "one", "two", "three"),
    *("four", "five", "six", "seven", "eight", "nine", "ten"),
}
_WORDS_BEFORE = re.compile(rf"((?:[^\W\d_]|[\s'’,:-])*[\s:])(?=[-+]?\s?[\d.{_SIGNS}])")
#: No quantity has more characters than this; Python refuses to read integers of more than 4,300 digits.
_LONGEST = 200

#: What flexible grading takes for a number: digits with their sign, separators and decimals.
_ANY_NUMBER = re.compile(rf"(?<![\w.])-?{_CURRENCY}?{_DIGITS}(?:\.[0-9]+)?|(?<![\w.])-?\.[0-9]+|[0-9]+(?:\.[0-9]+)?")
#: A sign of arithmetic with the white space around it.
_AT_SIGNS = re.compile(r"\s*([-+*/=×÷])\s*")
_MARKER = re.compile(r"####+([^\n]*)")
#: What begins as a number does, if it is none of a list: there an answer was announced, be it readable or not.
_BEGINS_AS_NUMBER = re.compile(
    rf"[\s*`\"({{\\$]*(?:[A-Za-z]\s?=\s?|[dtc]?frac\s*{{?)?[-+]?\s?(?:{_CURRENCY}\s?)?\.?[0-9]"
    r"(?![0-9]*[.)]\s+[^\W\d])"
)
_PHRASE = re.compile(
    r"(?:\b(?:answer|result)(?: to (?:the|this)\b[^.\n:\d]{0,80})? (?:is|are|was|(?:would|should|must|will) be)\b\s*:?"
    r"|\b(?:answer|ans)[*_\s\"]*[:=]"
    r"|^[^\w\n]*a[*_]*\s*:|^[#*_ \t]*(?:the\s+)?final\s+answer[*_\s]*$)[*_\s]*",
    re.IGNORECASE | re.MULTILINE,
)
#: Where a policy that does not stop writes a problem of its own.
_NEXT_QUESTION = re.compile(r"^[^\w\n]*question[^\w\n]*:", re.IGNORECASE | re.MULTILINE)
#: A sentence ends after its full stop, or with its line. The stop of `sq. ft.` is followed by a small letter.
_SENTENCE_END = re.compile(r"[.!](?=[*_$\s]*(?:\s[A-Z]|\n|\Z))[*_$]*|(?=\n|\Z)")
#: What takes an answer back or goes on with it. Whole sentences without are a closing remark.
_DOUBT = re.compile(
    r"\d|\b(?:wait|but|actually|however|no|not|check\w*|verify|hmm|mistake|wrong|incorrect|instead|oops|sorry|rather"
    r"|let's|let us|let me(?! know)|now)\b",
    re.IGNORECASE,
)


def read_number(text: str, boxed: bool = False) -> Fraction | None:
    """The number that ``text`` is, with or without currency, per cent sign or unit; None if it is anything else.
    ``boxed``: words may stand before it, as in a box that holds a sentence."""
    text = plain(text).strip()
    if len(text) > _LONGEST:
        return None
    *before, text = text.replace("{,}", ",").split("=")
    value = _read(text, boxed)
    return value if not before or _is_equation(before, value) else None


def _is_equation(before: list[str], value: Fraction | None) -> bool:
    """Whether what stands ``before`` each sign of equality in a text is one chain of equals that ends with ``value``:
    neither ``x <= 18`` nor ``a = 20, b = 18`` nor ``20 = 18`` is."""
    listed = any(re.search(r"[,;](?!\d{3})|\band\b", part) for part in before[1:])
    compared = any(part.rstrip().endswith(("<", ">", "!", "~", "\\not")) for part in before)
    return not listed and not compared and all(_read(part) in (None, value) for part in before)


def _read(text: str, boxed: bool = False) -> Fraction | None:
    """The number that a side of an equation is."""
    text = re.sub(r"(?<=\d)[\u2009\u202f\u00a0](?=\d{3}\b)", "", text)
    text = _TEXT.sub(r" \1 ", text)
    text = _FRACTION.sub(lambda found: " {}/{}".format(*filter(None, found.groups())), text)
    text = _ORNAMENTS.sub("", _EXPONENT.sub("", text))
    text = " ".join(re.sub(r"\([^()\d]*\)", _without_aside, text).split()).rstrip(".,;:").strip()
    text = re.sub(r"\A\(([^()]*)\)\Z", r"\1", text)
    if any(character.isnumeric() and not character.isascii() for character in text):
        return None  # a numeral that is no digit makes it another number: 2³, 18万
    match = _NUMBER.fullmatch(text)
    before = _WORDS_BEFORE.match(text) if boxed and match is None else None
    if before and not _NOT_BEFORE.intersection(re.split(r"\W+", before[1].lower())):
        match = _NUMBER.fullmatch(text, before.end())
    return _value(match) if match else None


def _without_aside(aside: re.Match[str]) -> str:
    """Nothing in place of words in brackets, unless they deny what they follow."""
    return aside[0] if _DENIES.intersection(re.split(r"\W+", aside[0].lower())) else ""


def _value(match: re.Match[str]) -> Fraction | None:
    unit = re.split(r"[\s,]+", (match["unit"] or "").lower().rstrip("."))
    scale = _SCALES.get(unit[0].rstrip("s"))
    if _NOT_UNITS.intersection(unit) or any(_NO_UNIT.fullmatch(word) for word in unit[scale is not None :]):
        return None
    if re.fullmatch(r"[A-Za-z]\.?", match["unit"] or "") and match["unit"][0] not in _LETTERS:
        return None
    parts = [match[part].rstrip(".") for part in ("whole", "part", "ratio", "decimal") if match[part]]
    try:
        value = sum((Fraction(re.sub(r"[,\s]", "", part)) for part in parts), Fraction(0))
    except ZeroDivisionError:
        return None
    value *= scale or 1
    return -value if "-" in match["sign"] else value


class GSM8K(Task):
    name = "gsm8k"
    gradings = ("strict", "flexible")
    instruction = (
        "Think step by step, each step on a line of its own. End with one more line: #### and then the answer, a "
        "number and nothing else."
    )

    def step_key(self, text: str) -> str:
        """Steps are the same if they differ in white space at signs, at the ends or in how much of it there is."""
        return _AT_SIGNS.sub(r"\1", " ".join(text.split()))

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
        """The final answer as it is written in ``response``, digits in ASCII; None if none is announced, or it is no
        number."""
        text = plain(without_thinking(response))
        asks = _NEXT_QUESTION.search(text)
        parts = [text[: asks.start()], text] if asks else [text]
        _, answer, boxed = max(next(filter(None, map(_announced, parts)), [(-1, "", False)]))
        answer = answer if boxed else answer.rstrip("!")  # in a box it is a factorial
        if read_number(answer, boxed) is not None:
            return answer
        if self.grading != "flexible":
            return None
        numbers = next(filter(None, map(_ANY_NUMBER.findall, parts)), [])
        return numbers[-1] if numbers else None

    def is_right(self, gold: str, answer: str) -> bool:
        return read_number(gold) == read_number(answer, boxed=True)


def _announced(text: str) -> list[tuple[int, str, bool]]:
    """What is announced in ``text``: where, as what, and whether words may stand before it."""
    found = [(tag.start(), tag[1].strip(), True) for tag in TAG.finditer(text)]
    if listed := last_boxes(text):
        found.append((listed[-1].start, ", ".join(box.content for box in listed), True))
    found += [
        (marker.start(), marker[1].strip(), False)
        for marker in _MARKER.finditer(text)
        if _BEGINS_AS_NUMBER.match(marker[1])
    ]
    closing, ends = _closing(text), [(end.start(), end.end()) for end in _SENTENCE_END.finditer(text)]
    for phrase in _PHRASE.finditer(text):
        end = ends[bisect_left(ends, (phrase.end(),))][1]
        if end >= closing and _BEGINS_AS_NUMBER.match(text, phrase.end(), end):
            found.append((phrase.start(), text[phrase.end() : end].strip("*_ "), False))
    return found


def _closing(text: str) -> int:
    """From where on ``text`` is nothing but signs, or a closing remark in whole sentences."""
    last = next((i for i in reversed(range(len(text))) if text[i] == "_" or text[i].isalnum()), -1)
    if not set(text[last + 1 :]) & set(".!?"):
        return last + 1
    return max((doubt.start() + 1 for doubt in _DOUBT.finditer(text)), default=0)


task = GSM8K()
