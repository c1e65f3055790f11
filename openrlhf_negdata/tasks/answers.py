r"""Where a response says its answer: what every grader of announced answers shares.

A thinking block is not part of the answer. Of several boxes the last one counts; boxes that only "and", "or" or a
comma stand between are one answer that is a list.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import NamedTuple

#: As R1, Magistral, Kimi and OpenThinker write it.
_OPENS = r"(?:<|\[|◁)(?:think|thinking|thought)(?:>|\]|▷)|<\|begin_of_thought\|>"
_CLOSES = r"(?:<|\[|◁)/(?:think|thinking|thought)(?:>|\]|▷)|<\|end_of_thought\|>"
_THINKING = re.compile(rf"(?:{_OPENS}).*?(?:{_CLOSES}|\Z)", re.DOTALL | re.IGNORECASE)
#: A template may have opened the block in the prompt, so that a response only ends it.
_THOUGHT = re.compile(rf"\A.*(?:{_CLOSES})", re.DOTALL | re.IGNORECASE)
#: What a tag encloses: of two that open, the last.
TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_BARE = re.compile(r"\\(?:boxed|fbox)(?:\s+|(?=\d))([^\s${}\\]+)")
_BETWEEN = re.compile(r"(?:[\s$,;&.]|\\[()\[\],;]|\\(?:text|mbox|mathrm)\s*\{\s*(?:and|or)?\s*\}|\\?\band\b|\bor\b)*")


class Box(NamedTuple):
    r"""What a ``\boxed{...}`` holds, and where the box begins and ends in the response."""

    start: int
    end: int
    content: str


def without_thinking(response: str) -> str:
    """``response`` without its thinking block. One that was never closed is all that there is: nothing is left."""
    return _THOUGHT.sub("", _THINKING.sub("", response))


def plain(text: str) -> str:
    """``text`` with the digits, fractions and minus signs of all scripts in ASCII (``１８`` and ``١٨`` are ``18``,
    ``2½`` is ``2 1/2``) and without characters that show nothing. Superscripts stay as they are."""
    return re.sub(r"[^\x00-\x7f]", lambda found: _in_ascii(found[0]), text)


@cache
def _in_ascii(character: str) -> str:
    kind = unicodedata.decomposition(character).partition(" ")[0]
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if kind == "<fraction>":
        return " " + unicodedata.normalize("NFKC", character).replace("\N{FRACTION SLASH}", "/")
    if kind == "<wide>":
        return unicodedata.normalize("NFKC", character)
    if character in "\N{MINUS SIGN}\N{EN DASH}":
        return "-"
    return "" if unicodedata.category(character) == "Cf" else character


def boxes(text: str) -> list[Box]:
    r"""The balanced boxes of ``text`` that hold something, and ``\boxed 12`` without braces, by where they begin.
    Escaped braces do not count. One pass, so that a text of nothing but open boxes takes no longer than another."""
    found: list[Box] = []
    open_braces: list[tuple[int, int]] = []
    for token in _BRACES.finditer(text):
        if token.group() == "}" and open_braces:
            start, begin = open_braces.pop()
            if start >= 0:
                found.append(Box(start, token.end(), text[begin : token.start()].strip()))
        elif token.group() == "{":
            open_braces.append((-1, -1))
        elif len(token.group()) > 2:
            open_braces.append((token.start(), token.end()))
    found += [Box(bare.start(), bare.end(), bare[1].strip(".,;")) for bare in _BARE.finditer(text)]
    return sorted(box for box in found if box.content)


def last_boxes(text: str) -> list[Box]:
    """The last box, and those before it that are one list with it."""
    found = boxes(text)
    first = len(found) - 1
    while first > 0 and _BETWEEN.fullmatch(text, found[first - 1].end, max(found[first].start, found[first - 1].end)):
        first -= 1
    return found[max(first, 0) :]


def last_boxed(text: str) -> str | None:
    """What the last box of ``text`` holds; None if there is none."""
    found = boxes(text)
    return found[-1].content if found else None
