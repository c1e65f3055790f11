r"""Where lines, paragraphs and sentences of a text end. Mathematics is whole: nothing ends within it.

Every rule works from left to right and looks back no further than the end before, so that a text from any of its ends
on is cut as it is within the whole.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator


def find_ends(text: str, ends: str) -> list[int]:
    """Character offsets in ``text`` where each ``line``, ``paragraph`` or ``sentence`` but the last ends, ascending:
    after the newlines that end it, or before the spaces that follow it."""
    found, begins_line = [], True
    for word, gap, following, cut in gaps(formulas_as_words(text)):
        newlines = gap.count("\n")
        if ends == "paragraph":
            ended = newlines > 1
        else:
            ended = newlines > 0 or (ends == "sentence" and _ends_sentence(word, following, begins_line))
        if ended:
            found.append(cut)
        begins_line = newlines > 0
    return found


def gaps(text: str) -> Iterator[tuple[str, str, str, int]]:
    """Every white space between two words: the word before it, the space, the word after it, where a cut goes."""
    for word, following in itertools.pairwise(re.finditer(r"\S+", text)):
        gap = text[word.end() : following.start()]
        # After the last newline; before the spaces where there is none, as rfind is then -1.
        yield word[0], gap, following[0], word.end() + gap.rfind("\n") + 1


#: What may stand before the first letter of a sentence and after the stop that ends one: quotes, brackets, Markdown's
#: emphasis and, since it may enclose a full stop, mathematics (the backslash is that of ``\(`` and ``\]``).
_OPENING, _CLOSING = "\"'“‘([{*_$\\", "\"'”’)]}*_$\\"
#: Words whose full stop ends no sentence: "J.", "e.g.", "U.S."; "Mr.", "No."; and two more. VinePPO passes over every
#: word of two letters, and so over sentences that end with "it" or "up".
_ABBREVIATION = re.compile(r"[\"'“‘(\[*_]*(?:(?:[A-Za-z]\.)+|[A-Z][a-z]\.|Mrs\.|vs\.)")


def _ends_sentence(word: str, following: str, begins_line: bool) -> bool:
    """Whether a sentence ends between two words: after ``.``, ``!`` or ``?``, before what is written as a beginning.

    A digit is none: "No. 5". Nor is the number of an item the end of one: "1. Add them up."
    """
    if not (following[0].isupper() or following[0] in _OPENING) or not word.rstrip(_CLOSING).endswith((".", "!", "?")):
        return False
    return not (_ABBREVIATION.fullmatch(word) or (begins_line and word[:-1].isdecimal()))


#: What begins or ends mathematics, and what ends a line or, with a blank line, a paragraph. ``\\`` and ``\$`` are here
#: because they do neither, though ``\\[2pt]`` and ``\$5`` look it.
_MARKS = re.compile(r"\\(?:begin|end)\{[^{}\s]*\}|\\[()\[\]]|\\[\\$]|\$\$?|\n(?:[^\S\n]*\n)?")
#: The white space after a mark that opens a display and before one that closes it, where the other mark is missing.
_UNPAIRED = re.compile(
    r"(?<=(?<!\S)(?:\$\$|\\\[))\s+(?=\S)|(?<!\S)\\begin\{[^{}\s]*\}\s+(?=\S)|\s+(?=(?:\\\]|\\end\{[^{}\s]*\})(?!\S))"
)


def formulas_as_words(text: str) -> str:
    r"""``text`` with ``_`` for every white space inside mathematics, so that no word ends there; of equal length.
    A mark of a display that stands alone, as the other is missing, is one word with what it opens or closes.

    Mathematics is ``$...$``, ``$$...$$``, ``\(...\)``, ``\[...\]`` and ``\begin{X}...\end{X}``. As in TeX it holds no
    blank line; an opening mark that nothing closes before one is plain text. A single dollar is mostly money, so
    ``$...$`` must look like mathematics, by Pandoc's rule and two more: no space after the opening dollar and none
    before the closing one, no digit after the closing one, no letter or digit before the opening one, all on one
    line. Only the very next dollar may close: that of "$10" has a space before it or a digit behind it, and then the
    first dollar was money as well ("$5 per hour. He earns $10").
    """
    spans = []
    # From the right: for every mark that closes, where those end that nothing has opened yet, the nearest last.
    closing: dict[str, list[int]] = defaultdict(list)
    for match in reversed(list(_MARKS.finditer(text))):
        mark, (start, end) = match[0], match.span()
        if mark[0] == "\n":
            closing.pop("$", None)
            if len(mark) > 1:
                closing.clear()
        elif mark[0] == "$":
            opens = mark == "$$" or not (text[end : end + 1].isspace() or text[start - 1 : start].isalnum())
            if opens and closing[mark]:
                spans.append((start, closing[mark][-1]))
            closes = mark == "$$" or not (text[start - 1 : start].isspace() or text[end : end + 1].isdecimal())
            closing[mark] = [end] if closes else []
        elif mark[1] in ")]e":
            closing[mark].append(end)
        elif mark[1] in "([b":
            pair = {"(": r"\)", "[": r"\]"}.get(mark[1]) or mark.replace("begin", "end", 1)
            if closing[pair]:
                spans.append((start, closing[pair].pop()))
    pieces, done = [], 0
    for start, end in reversed(spans):
        if start >= done:  # else it lies within the one before
            pieces += [text[done:start], re.sub(r"\s", "_", text[start:end])]
            done = end
    words = "".join([*pieces, text[done:]])
    return _UNPAIRED.sub(lambda match: re.sub(r"\s", "_", match[0]), words)
