"""Every task of the package reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760): ``reasoning_gym:NAME``.

Problems are drawn by seed and scored by the package's own scorer. A score of 1 is right, and any less is wrong: the
part of a point that some scorers give for a near miss, or for a right answer among other words, is none. The answer is
what the last ``<answer>...</answer>`` holds, as in the package; without that, what follows ``####`` on the last line
of the response. A thinking block is not read. A step is a line.

A gold answer is the package's whole entry, which its scorers need, written as a Python literal. A problem is of the
test split by the digest of its question, so that none is in two splits, whatever their seeds.

With other than the package's default settings, in a task file of one's own:

    from openrlhf_negdata.tasks.reasoning_gym import ReasoningGym
    task = ReasoningGym("chain_sum", min_terms=5, max_terms=8)
"""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.records import Problem, content_seed
from openrlhf_negdata.tasks import Task
from openrlhf_negdata.tasks.answers import TAG, without_thinking
from openrlhf_negdata.tasks.guarded import guarded

PACKAGE = "reasoning-gym"
PREFIX = "reasoning_gym:"
#: Problems of one dataset of the package; the next have a seed of their own.
CHUNK = 500
#: One question in so many is of the test split.
TEST_SHARE = 4
#: Draws in a row that give no new problem: then there are no more.
IN_VAIN = 1000

#: An answer to no problem.
NONSENSE = "qwxz"

_LAST_LINE = re.compile(r"^[ \t]*####+[ \t]*(\S[^\n]*)\s*\Z", re.MULTILINE)


class ReasoningGym(Task):
    """The task ``dataset`` of the package, with its default settings but for ``options``, those of its config class.

    UserError where the package is not installed, has no such task, or does not take those settings.
    """

    instruction = (
        "Think step by step, each step on a line of its own. Then give the answer, and nothing else, between <answer> "
        "and </answer>."
    )
    slow_grader = True  # sympy may be at a formula for hours

    def __init__(self, dataset: str, **options: Any) -> None:
        self.dataset, self.options = dataset, options
        # Of another version problems and scorers are others: a run that was made with one goes on with that alone.
        self.name = f"{PREFIX}{dataset} {installed_version()}"
        self._draw(0)

    def prompt(self, question: str) -> str:
        return f"Question: {question}\n{self.instruction}\nAnswer:\n"

    def read_gold(self, gold: object) -> str:
        """An entry of the package as :meth:`generate` writes it."""
        text = super().read_gold(gold)
        _entry(text)
        return text

    def extract(self, response: str) -> str | None:
        text = without_thinking(response)
        found = TAG.findall(text) or _LAST_LINE.findall(text)
        return found[-1].strip() or None if found else None

    def is_right(self, gold: str, answer: str) -> bool:
        entry = _entry(gold)
        try:
            return self._score(answer, entry) >= 1
        except Exception:
            # Some scorers raise on what they cannot read. One that cannot score its own answer either is at fault.
            if entry["answer"] is None or self._score(entry["answer"], entry) < 1:
                raise
            return False

    def warm_up(self) -> None:
        _ = self._scorer

    def generate(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        """``count`` different problems; those that are passed over are counted on stderr."""
        passed, seen, vain = Counter[str](), set[str](), 0
        for number, entry in enumerate(self._entries(f"{split} {seed}")):
            if len(seen) == count:
                break
            question = entry["question"]
            if reason := self._unfit(entry, split, seen):
                passed[reason], vain = passed[reason] + 1, vain + 1
                if vain == IN_VAIN:
                    raise UserError(
                        f"{self.name} has {len(seen)} different problems for the split {split}, and --count asks for "
                        f"{count}: of the last {vain:,} draws none was new ({_told(passed)})"
                    )
                continue
            seen.add(question)
            vain = 0
            yield Problem(f"{split}-{seed}-{number}", question, gold=repr(_plain(entry)))
        if passed:
            print(f"{self.name}: of {passed.total() + count:,} draws left out: {_told(passed)}", file=sys.stderr)

    def _entries(self, seed: str) -> Iterator[dict[str, Any]]:
        for chunk in itertools.count():
            drawn = self._draw(content_seed(self.dataset, seed, chunk))
            yield from (drawn[number] for number in range(CHUNK))

    def _unfit(self, entry: dict[str, Any], split: str, seen: set[str]) -> str:
        """Why the entry is no problem of the split, if it is none."""
        if (content_seed(entry["question"]) % TEST_SHARE == 0) != (split == "test"):
            return "of the other split"
        if entry["question"] in seen:
            return "drawn before"
        try:
            kept = ast.literal_eval(repr(_plain(entry)))
            same = bool(kept == entry)
        except (ValueError, SyntaxError):
            same = False
        if not same:
            return "cannot be written down"
        if entry["answer"] is not None and self._score(entry["answer"], kept) < 1:
            return "its own answer has no full score"
        if self._takes_nonsense(kept):
            raise UserError(
                f"{self.name}: its scorer gives {NONSENSE!r} full score for {entry['question'][-60:]!r}: nothing can "
                "be learnt from it"
            )
        return ""

    def _takes_nonsense(self, entry: dict[str, Any]) -> bool:
        try:
            return self._score(NONSENSE, entry) >= 1
        except Exception:  # what is_right takes for wrong, or the grader reports
            return False

    @cached_property
    def _scorer(self) -> Any:
        return self._draw(0)

    def _score(self, answer: str, entry: dict[str, Any]) -> float:
        with warnings.catch_warnings(), guarded():
            warnings.simplefilter("ignore")  # of what numpy cannot read
            return float(self._scorer.score_answer(answer, entry))

    def _draw(self, seed: int) -> Any:
        """A dataset of the package."""
        made = _factory()
        if self.dataset not in made.DATASETS:
            raise UserError(
                f"{PACKAGE} {installed_version()} has no task {self.dataset!r}: {', '.join(sorted(made.DATASETS))}"
            )
        try:
            return made.create_dataset(self.dataset, seed=seed, size=CHUNK, **self.options)
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(f"{PREFIX}{self.dataset} cannot be made with {self.options}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_scorer"}


@cache
def installed_version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f'the tasks {PREFIX}NAME want the package {PACKAGE}: pip install "{PACKAGE}==0.1.25"'
        ) from None


def named(name: str) -> ReasoningGym:
    """The task called ``reasoning_gym:NAME``; ``reasoning_gym:NAME VERSION``, as a run names it, of that version."""
    dataset, _, version = name.removeprefix(PREFIX).partition(" ")
    if version and version != installed_version():
        raise UserError(
            f"{PACKAGE} {installed_version()} is installed, and this was made with {version}, whose problems and "
            f'scorers may be others: pip install "{PACKAGE}=={version}"'
        )
    return ReasoningGym(dataset)


def _factory() -> Any:
    import reasoning_gym.factory  # a second: only where one of its tasks is asked for

    return reasoning_gym.factory


def _entry(gold: str) -> dict[str, Any]:
    try:
        entry = ast.literal_eval(gold)
        entry["question"], entry["answer"], entry["metadata"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise ValueError(
            f"the gold answer {gold!r:.100} is no entry of {PACKAGE} (`negdata problems` writes them)"
        ) from None
    return entry


def _plain(value: Any) -> Any:
    """``value`` with Python's numbers and texts in place of numpy's, whose repr is no literal."""
    if type(value) is dict:
        return {_plain(key): _plain(held) for key, held in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(map(_plain, value))
    return value.item() if hasattr(value, "dtype") and hasattr(value, "item") and not value.shape else value


def _told(passed: Counter[str]) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in passed.most_common())
