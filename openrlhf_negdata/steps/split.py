r"""Cutting a response into steps, in token space.

:class:`Segmentation` says where the text of a response is cut, :data:`PRESETS` names the shapes the literature uses.
:func:`step_offsets` finds the places in the text; :func:`split_steps` moves each to the end of the token it falls in.
A cut lies after the newlines that end a step and before the spaces that follow one: the tokens of byte-level BPE and
of SentencePiece hold a word with the space before it, and a cut after that space would pull the next word in.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openrlhf_negdata.tasks import Task
from openrlhf_negdata.tasks.ends import find_ends, formulas_as_words, gaps


@dataclass(frozen=True)
class Segmentation:
    """Where steps end. Lengths are in characters, without the white space at both ends of the step."""

    ends: Literal["task", "line", "paragraph", "sentence"]
    """What ends a step: what the task's ``step_ends`` says, a newline, a blank line, or a newline or the end of a
    sentence, all outside mathematics. White space at the start of a response ends none but a task's own."""

    min_chars: int = 0
    """A shorter step is merged into the one after it, the last into the one before it; 0 merges none."""

    max_chars: int = 0
    """A longer step is cut at the last white space outside mathematics that is at most so far into it and leaves
    ``min_chars`` on both sides; it stays whole where there is none. 0 cuts none."""

    max_steps: int = 0
    """All that follows belongs to the last of so many steps; 0 for any number."""


PRESETS: dict[str, Segmentation] = {
    # The task's own: of GSM8K the line, as in Setlur et al.; of MATH the sentence.
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
    token_ids: Sequence[int], tokenizer: Any, task: Task, segmentation: Segmentation = PRESETS["task"], start: int = 0
) -> int:
    """The end of the first step of ``token_ids``, as :func:`split_steps` has them, that ends after token ``start``.
    So a rollout is cut as what it is, the end of a response: give the prefix with it, and its length.

    Decodes the response and looks through its text once; only one place is looked for in the tokens.
    """
    body = _without_end(token_ids, tokenizer)
    decoded = _Decoded(token_ids[:body], tokenizer)
    known = decoded.length(min(start, body))
    offsets = (offset for offset in step_offsets(decoded.text, task, segmentation) if offset > known)
    return next((cut for cut in decoded.cuts(offsets) if start < cut < body), len(token_ids))


def next_step(
    prefix: Sequence[int], token_ids: Sequence[int], tokenizer: Any, task: Task, segmentation: Segmentation
) -> tuple[int, ...]:
    """The tokens of the first step of ``token_ids``, which go on from ``prefix``."""
    whole = [*prefix, *token_ids]
    return tuple(whole[len(prefix) : first_step(whole, tokenizer, task, segmentation, len(prefix))])


def step_key(step: tuple[int, ...], tokenizer: Any, task: Task) -> Hashable:
    """What next steps share if they are the same: what ``task`` says of their text, else their tokens."""
    text = tokenizer.decode(step, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    key = task.step_key(text)
    return step if key is None else key


def step_offsets(text: str, task: Task, segmentation: Segmentation = PRESETS["task"]) -> list[int]:
    """Character offsets in ``text`` where a step ends, ascending. The last step ends with the text, unsaid.

    Every rule works from left to right and looks back no further than the start of the step. So the part of a text
    from any of its offsets on is cut as it is within the whole, unless ``max_steps`` counts or the ``step_ends`` of a
    task of one's own looks back. In tokens that holds where no token has both the end of a step and words of the next.
    """
    ends = sorted(task.step_ends(text)) if segmentation.ends == "task" else find_ends(text, segmentation.ends)
    if segmentation.min_chars:
        ends = _merge_short(text, ends, segmentation.min_chars)
    if segmentation.max_chars:
        ends = _cut_long(text, ends, segmentation.min_chars, segmentation.max_chars)
    return ends[: segmentation.max_steps - 1] if segmentation.max_steps else ends


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
    places = [cut for *_, cut in gaps(formulas_as_words(text))]
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


#: Tokens that are decoded at once to find a place among them.
_WINDOW = 32


class _Decoded:
    """Text of tokens, and which token an offset of the text falls in.

    What a token decodes to may depend on those around it: a space at the start is dropped, a character may be several
    tokens. So tokens are decoded in windows that begin a window early and end where what they add is just what
    stands in the text of all. A window that adds anything else is made longer.
    """

    def __init__(self, token_ids: Sequence[int], tokenizer: Any) -> None:
        self.token_ids = list(token_ids)
        self.tokenizer = tokenizer
        self.text = self._decode(0, len(self.token_ids))

    def _decode(self, start: int, end: int) -> str:
        return self.tokenizer.decode(
            self.token_ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def length(self, count: int, start: int = 0) -> int:
        """The length of the text of tokens ``start`` to ``count``, without a character that is not all there."""
        # It decodes to U+FFFD, and with SentencePiece's byte tokens so do the bytes before it: the text is that of
        # the tokens before it. No character has more than four bytes.
        text = ""
        for whole in range(count, max(count - 4, start - 1), -1):
            text = self._decode(start, whole)
            if count == len(self.token_ids) or not text.endswith("\N{REPLACEMENT CHARACTER}"):
                return len(text)
        return len(text.rstrip("\N{REPLACEMENT CHARACTER}"))

    def cuts(self, offsets: Iterable[int]) -> Iterator[int]:
        """For each of the ascending ``offsets`` the least number of tokens whose text has so many characters."""
        early = first = last = known = reached = cut = 0
        shift = 0
        for offset in offsets:
            while reached < offset and last < len(self.token_ids):
                early, first, last, known, reached = self._window(first, last, reached)
                shift = known - len(self._decode(early, first))
            # Where it would be if all tokens of the window were equally long; a few looks around it find it.
            guess = first + (offset - known) * (last - first) // max(reached - known, 1)
            low = max(first, cut)
            enough = lambda count: shift + self.length(count, early) >= offset  # noqa: B023, E731
            cut = _least(enough, min(max(guess, low), last), low, last)
            yield cut

    def _window(self, early: int, first: int, known: int) -> tuple[int, int, int, int, int]:
        """The next window: its tokens ``first`` to ``last``, to be decoded from ``early`` on, and the lengths of the
        text before it (``known``) and to its end."""
        end, before, size = len(self.token_ids), self._decode(early, first), _WINDOW
        while True:
            last = min(first + size, end)
            text = self._decode(early, last)
            more = text[len(before) :]
            whole = last == end or not text.endswith("\N{REPLACEMENT CHARACTER}")
            if whole and text.startswith(before) and self.text.startswith(more, known):
                return early, first, last, known, known + len(more)
            if last == end:
                return 0, 0, end, 0, len(self.text)
            size *= 2


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
