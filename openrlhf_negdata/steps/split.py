r"""Cutting a response into steps, in token space.

:class:`Segmentation` says where the text of a response is cut, :data:`PRESETS` names the shapes the literature uses.
:func:`step_offsets` finds the places in the text; :func:`split_steps` moves each to the end of the token it falls in.
A cut lies after the newlines that end a step and before the spaces that follow one: the tokens of byte-level BPE and
of SentencePiece hold a word with the space before it, and a cut after that space would pull the next word in.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openrlhf_negdata.tasks import Task


@dataclass(frozen=True)
class Segmentation:
    """Where steps end. Lengths are in characters, without the white space at both ends of the step."""

    ends: Literal["task", "line", "paragraph", "sentence"]
    """What ends a step: what the task's ``step_ends`` says, a newline, a blank line, or a newline or the end of a
    sentence, both outside mathematics. White space at the start of a response ends none but a task's own."""

    min_chars: int = 0
    """A shorter step is merged into the one after it, the last into the one before it; 0 merges none."""

    max_chars: int = 0
    """A longer step is cut at the last white space outside mathematics that is at most so far into it and leaves
    ``min_chars`` on both sides; it stays whole where there is none. 0 cuts none."""

    max_steps: int = 0
    """All that follows belongs to the last of so many steps; 0 for any number."""


PRESETS: dict[str, Segmentation] = {
    # The task's own, which for GSM8K and for solutions of MATH that have lines is the line, as in Setlur et al.
    "task": Segmentation("task"),
    # Math-Shepherd, and Self-Explore on GSM8K.
    "line": Segmentation("line"),
    # openr's OmegaPRM, SCAN and search-and-learn, which take "\n\n" for the end of a step.
    "paragraph": Segmentation("paragraph"),
    # What VinePPO and Self-Explore begin with on MATH.
    "sentence": Segmentation("sentence"),
    # VinePPO on MATH. It cuts long steps at commas, "and" or "=" near the middle; here they are cut at a space.
    "vineppo": Segmentation("sentence", min_chars=20, max_chars=100),
    # Self-Explore on MATH. It merges the shortest steps until nine are left; here the ninth takes all that follows.
    "self_explore": Segmentation("sentence", min_chars=20, max_steps=9),
}


def split_steps(
    token_ids: Sequence[int], tokenizer: Any, task: Task, segmentation: Segmentation = PRESETS["task"]
) -> list[tuple[int, int]]:
    """The steps of a response as ``[start, end)`` ranges of its tokens; they join to exactly ``token_ids``.

    :func:`step_offsets` says where in the text a step ends; the cut is made after the first token by whose end the
    text decoded so far reaches that point, so a delimiter belongs to the step it ends and no token is split.
    End-of-sequence tokens belong to the last step. Never raises, whatever the ids.
    """
    end = len(token_ids)
    if end == 0:
        return []
    body = _without_end(token_ids, tokenizer)
    decoded = _Decoded(token_ids[:body], tokenizer)
    cuts = sorted({*decoded.cuts(step_offsets(decoded.text, task, segmentation))} - {0, body})
    edges = [0, *cuts, end]
    return list(zip(edges, edges[1:], strict=False))


def first_step(
    token_ids: Sequence[int], tokenizer: Any, task: Task, segmentation: Segmentation = PRESETS["task"]
) -> int:
    """The end of the first step: ``split_steps(...)[0][1]`` for less work; 0 for no tokens."""
    body = _without_end(token_ids, tokenizer)
    decoded = _Decoded(token_ids[:body], tokenizer)
    for cut in decoded.cuts(step_offsets(decoded.text, task, segmentation)):
        if 0 < cut < body:
            return cut
    return len(token_ids)


def step_offsets(text: str, task: Task, segmentation: Segmentation = PRESETS["task"]) -> list[int]:
    """Character offsets in ``text`` where a step ends, ascending. The last step ends with the text, unsaid.

    Every rule works from left to right and looks back no further than the start of the step. So the part of a text
    from any of its offsets on is cut as it is within the whole, unless ``max_steps`` counts, a task's ``step_ends``
    looks back, or a line or paragraph that ends inside mathematics is to be cut further. In tokens that holds where no
    token has both the end of a step and words of the next.
    """
    ends = sorted(task.step_ends(text)) if segmentation.ends == "task" else _ends(text, segmentation.ends)
    if segmentation.min_chars:
        ends = _merge_short(text, ends, segmentation.min_chars)
    if segmentation.max_chars:
        ends = _cut_long(text, ends, segmentation.min_chars, segmentation.max_chars)
    return ends[: segmentation.max_steps - 1] if segmentation.max_steps else ends


def _ends(text: str, ends: str) -> list[int]:
    """Where lines, paragraphs or sentences of ``text`` end."""
    found, begins_line = [], True
    for word, gap, following, cut in _gaps(_formulas_as_words(text) if ends == "sentence" else text):
        newlines = gap.count("\n")
        if ends == "paragraph":
            ended = newlines > 1
        else:
            ended = newlines > 0 or (ends == "sentence" and _ends_sentence(word, following, begins_line))
        if ended:
            found.append(cut)
        begins_line = newlines > 0
    return found


def _gaps(text: str) -> Iterator[tuple[str, str, str, int]]:
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


def _formulas_as_words(text: str) -> str:
    r"""``text`` with ``_`` for every white space inside mathematics, so that no word ends there; of equal length.

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
    return "".join([*pieces, text[done:]])


def _merge_short(text: str, ends: list[int], min_chars: int) -> list[int]:
    """``ends`` without those of steps under ``min_chars``, and without the last if what follows it is as short."""
    kept, start = [], 0
    for end in ends:
        if len(text[start:end].strip()) >= min_chars:
            kept.append(end)
            start = end
    if kept and len(text[start:].strip()) < min_chars:
        kept.pop()
    return kept


def _cut_long(text: str, ends: list[int], min_chars: int, max_chars: int) -> list[int]:
    """``ends`` and, in steps over ``max_chars``, what else :class:`Segmentation` asks for."""
    places = [cut for *_, cut in _gaps(_formulas_as_words(text))]
    least = max(min_chars, 1)
    found, start = [], 0
    for end in [*ends, len(text)]:
        while len(text[start:end].strip()) > max_chars:
            begin = end - len(text[start:end].lstrip())
            near = places[bisect.bisect_right(places, begin) : bisect.bisect_right(places, begin + max_chars)]
            both_sides = (
                place
                for place in reversed(near)
                if len(text[begin:place].strip()) >= least and len(text[place:end].strip()) >= least
            )
            place = next(both_sides, None)
            if place is None:
                break
            found.append(place)
            start = place
        found.append(end)
        start = end
    return found[:-1]


def _without_end(token_ids: Sequence[int], tokenizer: Any) -> int:
    """How many tokens there are before the special ones at the end. An unknown token stands for text, and is none of
    them unless it is the end-of-sequence token too, as GPT-2's is."""
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id} | {tokenizer.eos_token_id}
    count = len(token_ids)
    while count and token_ids[count - 1] in special:
        count -= 1
    return count


class _Decoded:
    """Text of tokens, and which token an offset of the text falls in, by decoding growing prefixes."""

    def __init__(self, token_ids: Sequence[int], tokenizer: Any) -> None:
        self.token_ids = list(token_ids)
        self.tokenizer = tokenizer
        self.text = self._decode(0, len(self.token_ids))

    def _decode(self, start: int, count: int) -> str:
        """The text of tokens ``start`` to ``count``."""
        # A character whose bytes are not all there yet decodes to U+FFFD, and with SentencePiece's byte tokens so do
        # the bytes before it: it is not reached, and the text is that of the tokens before it. No character has more
        # than four bytes.
        text = ""
        for whole in range(count, max(count - 4, start - 1), -1):
            text = self.tokenizer.decode(
                self.token_ids[start:whole], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            if count == len(self.token_ids) or not text.endswith("\N{REPLACEMENT CHARACTER}"):
                return text
        return text.rstrip("\N{REPLACEMENT CHARACTER}")

    def cuts(self, offsets: Iterable[int]) -> Iterator[int]:
        """For each of the ascending ``offsets`` the least number of tokens whose text has so many characters."""
        end = len(self.token_ids)
        length = functools.cache(lambda count: len(self._decode(0, count)))
        cut = 0
        for offset in offsets:
            # Decoding a long prefix is slow. The few tokens since the last cut, after the one before them since some
            # tokenizers drop a space at the start, nearly always give the answer; two prefixes then confirm it.
            before = max(cut - 1, 0)
            more = len(self._decode(before, cut)) + offset - length(cut)
            guess = _least(lambda count: len(self._decode(before, count)) >= more, cut, cut, end)  # noqa: B023
            cut = _least(lambda count: length(count) >= offset, guess, cut, end)  # noqa: B023
            yield cut


def _least(enough: Callable[[int], bool], guess: int, low: int, high: int) -> int:
    """The least number in ``[low, high]`` that is enough, ``high`` if none is less; looks in widening steps around
    ``guess``, where it probably is."""
    reach = 1
    if guess == high or enough(guess):
        high = guess
        while high - reach >= low and enough(high - reach):
            high, reach = high - reach, 2 * reach
        low = max(low, high - reach + 1)
    else:
        low = guess + 1
        while low + reach < high and not enough(low + reach):
            low, reach = low + reach + 1, 2 * reach
        high = min(high, low + reach)
    return bisect.bisect_left(range(high), True, low, high, key=enough)
