"""What a problem is: how its prompt is written, where the steps of an answer end, how the answer is graded.

A task is a subclass of :class:`Task`. The built-in ones are named in :data:`BUILT_IN`; a task of one's own is a
Python file that defines ``task = MyTask()`` and is named by its path: ``--task my_task.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.tasks.ends import formulas_as_words

CORRECT, WRONG, TRUNCATED, NO_ANSWER, TIMED_OUT = OUTCOMES = (
    "correct",
    "wrong",
    "truncated",
    "no_answer",
    "timed_out",
)

BUILT_IN = ("gsm8k", "math", "number_walk", "running_value", "star_graph")


@dataclass(frozen=True)
class Problem:
    """A question and its gold answer, perhaps with a teacher's solution."""

    id: str
    question: str
    gold: str
    solution: str | None = None


@dataclass(frozen=True)
class Graded:
    """An outcome, and the answer that was extracted from the response (None if there was none)."""

    outcome: str
    answer: str | None


class Task:
    """Base class: prompts are the question itself, steps are lines. Subclasses override what differs."""

    name: str
    #: The whole vocabulary of a task made for small models, None for a task in natural language.
    words: tuple[str, ...] | None = None
    #: Most tokens a response to a problem of a small task needs, end-of-sequence included.
    max_response_tokens: int | None = None
    #: Whether ``grade`` may run for long or never return on some input, so that it needs a process that can be killed.
    slow_grader = False
    #: The file that a task of one's own was loaded from.
    source: str | None = None

    def problem(self, row: dict, number: int) -> Problem:
        """Read a problem from ``row`` of a problems file; ``number`` is its line. KeyError or ValueError if
        malformed."""
        if row["question"] is None or row["gold"] is None:
            raise ValueError("question or gold is null")
        solution = row.get("solution")
        return Problem(
            id=str(row.get("id", number)),
            question=str(row["question"]),
            gold=str(row["gold"]),
            solution=None if solution is None else str(solution),
        )

    def prompt(self, question: str) -> str:
        """The text the policy sees."""
        return question

    def step_ends(self, text: str) -> list[int]:
        """Character offsets in ``text`` where a step ends, ascending; the delimiter belongs to the step it ends. Here:
        after line breaks outside mathematics."""
        return [match.end() for match in re.finditer(r"\n+", formulas_as_words(text))]

    def grade(self, gold: str, response: str) -> Graded:
        """Grade a complete response against the gold answer: correct, wrong or no_answer."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Fill the caches of ``grade``: called once in the process that a slow grader's workers are forked from."""

    def trace_right(self, question: str, response: str) -> bool | None:
        """Whether every step of ``response`` is right, not only its answer; None where that cannot be told."""
        return None

    def generate(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        """``count`` fresh problems. ``split``: ``base`` (to pre-train on), ``syn`` (D_syn), ``test``."""
        raise UserError(f"task {self.name} has no generator: its problems are a file you give")

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        # A worker cannot import a file that is no module by its name: it loads the file as we did.
        return (load, (self.source,)) if self.source else super().__reduce_ex__(protocol)


def load(name: str) -> Task:
    """The task called ``name``, or the ``task`` defined by the Python file at path ``name``."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UserError(f"no such task file: {name}")
        spec = importlib.util.spec_from_file_location("negdata_task", name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not isinstance(getattr(module, "task", None), Task):
            raise UserError(f"{name} defines no `task`: end it with `task = MyTask()`, a subclass of Task")
        module.task.source = str(Path(name).absolute())
        return module.task
    if name not in BUILT_IN:
        raise UserError(f"unknown task: {name} (built in: {', '.join(BUILT_IN)}; or the path of a .py file)")
    return importlib.import_module(f"openrlhf_negdata.tasks.{name}").task
