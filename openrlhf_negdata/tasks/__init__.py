"""What a problem is: how its prompt is written, where the steps of an answer end, how the answer is graded.

A task is a subclass of :class:`Task`. The built-in ones are named in :data:`BUILT_IN`; a task of one's own is a
Python file that defines ``task = MyTask()`` and is named by its path: ``--task my_task.py``. What was made with it is
known by the file's content, wherever the file lies; modules that the file imports are not looked at. The tasks of the
package reasoning-gym are ``reasoning_gym:NAME``.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any, Self, SupportsIndex

from openrlhf_negdata import ownfile
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.records import CORRECT, NO_ANSWER, WRONG, Graded, Problem
from openrlhf_negdata.tasks.ends import formulas_as_words

BUILT_IN = ("gsm8k", "math", "number_walk", "running_value", "star_graph", "word_problems")


class Task:
    """Base class: prompts are the question itself, steps are lines. Subclasses override what differs."""

    name: str = "task"
    #: The whole vocabulary of a task made for small models, None for a task in natural language.
    words: tuple[str, ...] | None = None
    #: Most tokens a response to a problem of a small task needs, end-of-sequence included.
    max_response_tokens: int | None = None
    #: What a chat model is asked to do with a question, so that its answer is one that the grader reads.
    instruction: str | None = None
    #: Whether ``grade`` may run for long or never return on some input, so that it needs a process that can be killed.
    slow_grader = False
    #: How its grader may read an answer, the usual way first, and how it does.
    gradings: tuple[str, ...] = ("strict",)
    grading: str = "strict"
    #: The file that a task of one's own was loaded from, and what it held then.
    source: str | None = None
    code: bytes = b""

    @property
    def identity(self) -> str:
        """What decides all that the task does, as settings hold it: the name of a built-in task; of a task of one's
        own, its name and the digest of its file."""
        return f"{self.name} {_digest(self.code)}" if self.source else self.name

    def problem(self, row: dict, number: int) -> Problem:
        """Read a problem from ``row`` of a problems file; ``number`` is its line. KeyError or ValueError if
        malformed."""
        if row["question"] is None:
            raise ValueError("question is null")
        solution = row.get("solution")
        return Problem(
            id=str(row.get("id", number)),
            question=str(row["question"]),
            gold=self.read_gold(row["gold"]),
            solution=None if solution is None else str(solution),
        )

    def prompt(self, question: str) -> str:
        """The text the policy sees."""
        return question

    def chat_prompt(self, question: str) -> str:
        """The user's turn of a chat template."""
        return f"{question}\n\n{self.instruction}" if self.instruction else self.prompt(question)

    def step_ends(self, text: str) -> list[int]:
        """Character offsets in ``text`` where a step ends, ascending; the delimiter belongs to the step it ends. Here:
        after line breaks outside mathematics."""
        return [match.end() for match in re.finditer(r"\n+", formulas_as_words(text))]

    def step_key(self, text: str) -> str | None:
        """What two next steps share if they are the same step, written in other ways. ``text`` is that of a step, with
        its delimiter and special tokens. None, as here: steps are the same where their tokens are."""
        return None

    def read_gold(self, gold: object) -> str:
        """The gold answer that ``gold`` is, in whatever form it is published; ValueError if it is none. Whatever takes
        a gold answer from a user asks this first: against one that cannot be read every answer would be wrong."""
        if isinstance(gold, bool) or not isinstance(gold, (str, int, float)) or not str(gold).strip():
            raise ValueError(f"gold is {gold!r:.100}, not text or a number")
        return str(gold)

    def extract(self, response: str) -> str | None:
        """The final answer as it is written in a complete response; None if there is none."""
        raise NotImplementedError

    def is_right(self, gold: str, answer: str) -> bool:
        """Whether ``answer``, which :meth:`extract` found, is the gold answer."""
        raise NotImplementedError

    def grade(self, gold: str, response: str) -> Graded:
        """Grade a complete response against the gold answer: correct, wrong or no_answer. A task either overrides this
        or has :meth:`extract` and :meth:`is_right`."""
        answer = self.extract(response)
        if answer is None:
            return Graded(NO_ANSWER, None)
        return Graded(CORRECT if self.is_right(gold, answer) else WRONG, answer)

    def graded_by(self, grading: str) -> Self:
        """The task with another way of reading answers, one of :attr:`gradings`."""
        if grading not in self.gradings:
            raise UserError(f"--grading {grading}: the task {self.name} has {', '.join(self.gradings)} alone")
        if grading == self.grading:
            return self
        made = object.__new__(type(self))  # copy.copy would load the file of a task of one's own again
        made.__dict__.update(self.__dict__, grading=grading)
        return made

    def warm_up(self) -> None:
        """Fill the caches of ``grade``: called once in the process that a slow grader's workers are forked from."""

    def trace_right(self, question: str, response: str) -> bool | None:
        """Whether every step of ``response`` is right, not only its answer; None where that cannot be told."""
        return None

    def generate(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        """``count`` fresh problems. ``split``: ``base`` (to pre-train on), ``syn`` (D_syn), ``test``."""
        raise UserError(f"task {self.name} has no generator: its problems are a file you give")

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        # A worker cannot import a file that is no module by its name: it loads the file as we did, if it is as it was.
        return (_again, (self.source, self.identity, self.grading)) if self.source else super().__reduce_ex__(protocol)


def _again(source: str, identity: str, grading: str) -> Task:
    return load(source, identity).graded_by(grading)


def is_built_in(name: str) -> bool:
    """Whether ``name`` is that of a task, or its identity, whose code is an installed package's, not a file's."""
    return name in BUILT_IN or re.fullmatch(r"reasoning_gym:\w+( [\w.+]+)?", name) is not None


def load(name: str, identity: str | None = None, owner: str = "this run") -> Task:
    """The task called ``name``, or the ``task`` defined by the Python file at path ``name``, which is run.

    UserError if there is none, or if it is not the one of ``identity``, which ``owner`` was made with; then no code of
    it is run.
    """
    if not name.endswith(".py"):
        if not is_built_in(name):
            raise UserError(
                f"unknown task: {name} (built in: {', '.join(BUILT_IN)}; or reasoning_gym:NAME, or the path of a .py "
                "file)"
            )
        module = importlib.import_module(f"openrlhf_negdata.tasks.{name.partition(':')[0]}")
        built_in: Task = module.task if name in BUILT_IN else module.named(name)
        if identity not in (None, built_in.identity):
            raise UserError(f"--task {name}: {owner} was made with the task {identity}")
        return built_in
    if not Path(name).is_file():
        raise UserError(f"no such task file: {name}")
    code = Path(name).read_bytes()
    if identity is not None and not identity.endswith(_digest(code)):
        raise UserError(
            f"--task {name}: {owner} was made with the task {identity}, and this file is {_digest(code)}: "
            "it was edited since, or is another"
        )
    task = getattr(ownfile.run("task", str(Path(name).absolute()), code), "task", None)
    if not isinstance(task, Task):
        raise UserError(f"{name} defines no `task`: end it with `task = MyTask()`, a subclass of Task")
    task = copy(task)  # it may be a built-in one that the file imports
    task.source, task.code = str(Path(name).absolute()), code
    return task


def _digest(code: bytes) -> str:
    return f"sha256:{ownfile.digest(code)}"
