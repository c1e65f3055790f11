"""Which questions stand in a test set, whole or in part, so that they are not trained on.

>>> held_out = HeldOut({"test.jsonl": ["What is 3 + 4?"]})
>>> held_out.found("what  is 3+4"), held_out.found("What is 3 - 4?")
('test.jsonl', None)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

#: A number with its separators, a run of letters, or a sign that changes what is asked. The hyphen inside a word is
#: not such a sign; all other punctuation, and space, only parts the words.
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|(?<![^\W\d_])-|-(?![^\W\d_])|[+*/^%=<>≤≥≠×÷√]")


def words(question: str) -> list[str]:
    """The words of a question, equal for questions that differ in case, spacing, punctuation or Unicode form only."""
    text = unicodedata.normalize("NFKC", question).casefold().replace("−", "-")
    return [word.replace(",", "") for word in _WORD.findall(text)]


def normalised(question: str) -> str:
    """``question`` as its :func:`words` alone."""
    return " ".join(words(question))


class HeldOut:
    """The questions of test sets, by the name of the set."""

    def __init__(self, questions: Mapping[str, Iterable[str]], n: int = 13) -> None:
        """``n``: how many words in a row make two questions one. GPT-3's evaluation used 13 (arXiv 2005.14165)."""
        self.n = n
        self._whole: dict[str, str] = {}
        self._parts: dict[str, str] = {}
        for name, asked in questions.items():
            for question in asked:
                self._whole.setdefault(normalised(question), name)
                for part in self._ngrams(question):
                    self._parts.setdefault(part, name)

    def found(self, question: str) -> str | None:
        """The name of a test set that holds ``question``, or a question with ``n`` words in a row in common with it.

        A question shorter than ``n`` words is found only whole.
        """
        whole = self._whole.get(normalised(question))
        if whole is not None:
            return whole
        return next((self._parts[part] for part in self._ngrams(question) if part in self._parts), None)

    def _ngrams(self, question: str) -> Iterator[str]:
        found = words(question)
        for start in range(len(found) - self.n + 1):
            yield " ".join(found[start : start + self.n])
