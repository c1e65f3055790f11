"""The answers of evaluated policies, kept beside their figures in ARM.answers.parquet, and what two arms said to the
same problems.

A row is an answer: ``problem``, ``sample`` (0: the greedy one), ``text``, its length in ``tokens``, ``finish_reason``,
``outcome``, and the ``answer`` that was read from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import read_file, replacing, write_jsonl
from openrlhf_negdata.records import CORRECT, Problem, Trace

PROBLEMS = "problems.jsonl"
_FIELDS = {"problem": str, "sample": int, "tokens": int, "text": str, "finish_reason": str, "outcome": str}


@dataclass(frozen=True)
class Kept:
    """A kept answer; see the module."""

    problem: str
    sample: int
    tokens: int
    text: str
    finish_reason: str
    outcome: str
    answer: str | None


@dataclass(frozen=True)
class Beside:
    """The greedy answers of two arms to one problem."""

    problem: Problem
    answers: tuple[Kept, Kept]

    @property
    def right(self) -> tuple[bool, bool]:
        first, second = (one.outcome == CORRECT for one in self.answers)
        return first, second


def file_of(folder: Path, arm: str) -> Path:
    return folder / f"{arm}.answers.parquet"


def write(path: Path, answers: Iterable[Trace]) -> None:
    """Write the answers, the greedy one of each problem numbered 0, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {name: getattr(one, name) for name in (*_FIELDS, "answer") if name != "tokens"}
        | {"tokens": len(one.token_ids or ())}
        for one in answers
    ]
    kinds = {str: pa.string(), int: pa.int32()}
    schema = pa.schema({name: kinds[kind] for name, kind in _FIELDS.items()} | {"answer": pa.string()})
    with replacing(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema), file.buffer, compression="zstd")  # type: ignore[attr-defined]


def read(folder: Path, arm: str) -> list[Kept]:
    """The kept answers of an arm of the evaluation ``folder``.

    Raises:
        UserError: there are none, or they are malformed.
    """
    path = file_of(folder, arm)
    if not path.is_file():
        raise UserError(
            f"{folder} has no {path.name}: no answers of an arm {arm} were kept there; remove {arm}.json and run "
            "`negdata evaluate` again"
        )

    def parse(row: dict[str, Any], _: int) -> Kept:
        for name, kind in _FIELDS.items():
            if not isinstance(row[name], kind):
                raise ValueError(f"{name} is {row[name]!r}")
        return Kept(**{name: row[name] for name in (*_FIELDS, "answer")})

    return list(read_file(path, parse))


def write_problems(folder: Path, problems: Iterable[Problem]) -> None:
    """Keep the problems that were asked. UserError where ``folder`` holds a file of that name with other rows."""
    rows = [vars(problem) for problem in problems]
    path = folder / PROBLEMS
    if path.exists() and list(read_file(path, lambda row, _: row)) != rows:
        raise UserError(f"{path} is in the way: it holds other problems; give another --output")
    write_jsonl(path, rows)


def side_by_side(folder: Path, arms: tuple[str, str]) -> list[Beside]:
    """The greedy answers of two arms, problem by problem.

    UserError where they did not answer the same problems.
    """
    problems = list(read_file(folder / PROBLEMS, lambda row, _: Problem(**row)))
    first, second = ({one.problem: one for one in read(folder, arm) if one.sample == 0} for arm in arms)
    for arm, answers in zip(arms, (first, second), strict=True):
        if answers.keys() != {problem.id for problem in problems}:
            raise UserError(f"{file_of(folder, arm)}: its answers are not to the problems of {folder / PROBLEMS}")
    return [Beside(problem, (first[problem.id], second[problem.id])) for problem in problems]


def unlike(pairs: Sequence[Beside], count: int) -> list[Beside]:
    """Up to ``count`` problems that one arm alone got right, those of either arm in turn, in the order of the
    problems."""
    of_first, of_second = ([pair for pair in pairs if pair.right == right] for right in ((True, False), (False, True)))
    turns = [pair for two in zip(of_first, of_second, strict=False) for pair in two]
    both = min(len(of_first), len(of_second))
    return [*turns, *of_first[both:], *of_second[both:]][:count]
