"""Cutting a response into steps, in token space."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

from openrlhf_negdata.tasks import Task


def split_steps(token_ids: Sequence[int], tokenizer: Any, task: Task) -> list[tuple[int, int]]:
    """The steps of a response as ``[start, end)`` ranges of its tokens; they join to exactly ``token_ids``.

    The task says where in the text a step ends; the cut is made after the first token by whose end the text decoded
    so far reaches that point, so a delimiter belongs to the step it ends and no token is split. End-of-sequence
    tokens belong to the last step. Never raises, whatever the ids.
    """
    end = len(token_ids)
    if end == 0:
        return []
    body = _without_end(token_ids, tokenizer)
    decoded = _Decoded(token_ids[:body], tokenizer)
    cuts = sorted({decoded.token_at(offset) for offset in task.step_ends(decoded.text)} - {0, body})
    edges = [0, *cuts, end]
    return list(zip(edges, edges[1:], strict=False))


def first_step(token_ids: Sequence[int], tokenizer: Any, task: Task) -> int:
    """The end of the first step: ``split_steps(...)[0][1]`` for less work; 0 for no tokens."""
    body = _without_end(token_ids, tokenizer)
    decoded = _Decoded(token_ids[:body], tokenizer)
    for offset in task.step_ends(decoded.text):
        cut = decoded.token_at(offset)
        if cut == body:
            break
        if cut > 0:
            return cut
    return len(token_ids)


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
        self.text = self._decode(len(self.token_ids))

    def _decode(self, count: int) -> str:
        # A character whose bytes are not all there yet decodes to U+FFFD, and with SentencePiece's byte tokens so do
        # the bytes before it: it is not reached, and the text is that of the tokens before it. No character has more
        # than four bytes.
        text = ""
        for whole in range(count, max(count - 4, -1), -1):
            text = self.tokenizer.decode(
                self.token_ids[:whole], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            if count == len(self.token_ids) or not text.endswith("\N{REPLACEMENT CHARACTER}"):
                return text
        return text.rstrip("\N{REPLACEMENT CHARACTER}")

    def token_at(self, offset: int) -> int:
        """The least number of tokens whose text has at least ``offset`` characters."""
        return bisect.bisect_left(range(len(self.token_ids)), offset, key=lambda count: len(self._decode(count)))
