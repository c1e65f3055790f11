"""A folder of one's own: problems, and graded answers to them that were made elsewhere.

    problems.jsonl    or ``problems_from``: any form that :mod:`openrlhf_negdata.forms` reads
    traces.jsonl      rows of `negdata grade` with the problem they answer

Either file may be in another form, such as traces.jsonl.gz or problems.parquet.
A row of traces.jsonl names its problem by ``problem``, its id, or by ``question``, its text. ``response`` is text, or
a list of texts; then ``outcome`` is a list as well.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openrlhf_negdata.files import Reading, read_problems, read_rows
from openrlhf_negdata.forms import BadRow, file_named
from openrlhf_negdata.records import OUTCOMES, Problem, Trace
from openrlhf_negdata.tasks import Task


def read_solutions(
    folder: str | Path | None,
    task: Task,
    problems_from: str | Path | None = None,
    reading: Reading | None = None,
    with_answers: bool = True,
) -> tuple[list[Problem], list[Trace]]:
    """The problems of ``folder``, or else of ``problems_from``, and the answers in ``folder`` if there are any."""
    problems = read_problems(problems_from or file_named(Path(folder or ""), "problems"), task, reading)
    traces = file_named(Path(folder), "traces") if folder and with_answers else None
    if traces is None or not traces.exists():
        return problems, []
    rows = read_rows(traces, Known(problems).answers, reading)
    return problems, [trace for answers in rows for trace in answers]


class Known:
    """The problems that rows may answer, and how many answers each has."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.asked: dict[str, list[str]] = defaultdict(list)
        for problem in problems:
            self.asked[problem.question].append(problem.id)
        self.ids = {problem.id for problem in problems}
        self.count = Counter[str]()

    def answers(self, row: dict[str, Any], _: int) -> list[Trace]:
        """The answers of a row of traces.jsonl: all of them, or none and a BadRow."""
        problem, answers = self.problem(row), _answers(row)
        for text, outcome, _, _ in answers:
            _check(text, outcome)
        first = self.count[problem]
        self.count[problem] += len(answers)
        return [
            Trace(problem, sample, None, None, text, reason, outcome, found)
            for sample, (text, outcome, found, reason) in enumerate(answers, first)
        ]

    def problem(self, row: dict[str, Any]) -> str:
        """The id of the problem that a row answers."""
        if "problem" in row or "question" not in row:
            if (name := str(row["problem"])) not in self.ids:
                raise BadRow("unknown_problem", f"no problem has the id {name!r}")
            return name
        names = self.asked.get(row["question"], [])
        if len(names) != 1:
            what = f"the problems {', '.join(names)} ask" if names else "no problem asks"
            raise BadRow("unknown_problem", f"{what} {row['question']!r}")
        return names[0]


def _answers(row: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Text, outcome, what was extracted and finish reason of each answer in a row."""
    names = ("response", "outcome", "answer", "finish_reason")
    if not isinstance(row["response"], list):
        return [tuple(row.get(name) for name in names)]
    count = len(row["response"])
    if not count:
        raise BadRow("empty", "response is an empty list")
    columns = [row.get(name, [None] * count) for name in names]
    if not all(isinstance(column, list) and len(column) == count for column in columns):
        raise ValueError(f"response is a list of {count}, and one of {', '.join(names[1:])} is not")
    return list(zip(*columns, strict=True))


def _check(text: Any, outcome: Any) -> None:
    if outcome is None:
        raise BadRow("unlabelled", "no field 'outcome': run `negdata grade` on the file first")
    if outcome not in OUTCOMES:
        raise BadRow("unknown_outcome", f"outcome {outcome!r} is none of {', '.join(OUTCOMES)}")
    if not isinstance(text, str):
        raise ValueError(f"response is {text!r}, not text")
    if not text.strip():
        raise BadRow("empty", "response is empty")
