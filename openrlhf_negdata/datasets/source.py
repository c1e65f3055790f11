"""What a training set is made of: the problems of a folder, one after the other, each with its answers and values."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from openrlhf_negdata.datasets.own import read_solutions
from openrlhf_negdata.datasets.rows import Answered, Origin, Valuing
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import Reading
from openrlhf_negdata.records import CORRECT, Problem, Trace
from openrlhf_negdata.rollouts.prompts import Prompting
from openrlhf_negdata.rollouts.sampling import encode_response
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import Segmentation
from openrlhf_negdata.tasks import Task


class Source(Origin):
    """The problems of a run folder, or of a folder of one's own, as often as they are asked for. Of a run, the answers
    are read problem by problem: they need not fit into memory."""

    def __init__(
        self,
        folder: str | Path | None,
        task: Task,
        tokenizer: Any | None,
        prompting: Prompting,
        tables: Sequence[str],
        problems_from: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        """``tables``: which of traces, values and rollouts are read. ``problems_from``: where the problems of a
        folder of one's own are, if they are not in it."""
        super().__init__(str(folder or problems_from), task, tokenizer)
        self.prompting = prompting
        self.encode = None if tokenizer is None else prompting.encoder(tokenizer, task)
        self.end = None if tokenizer is None else prompting.end(tokenizer)
        self.run: Run | None = None
        self.tables = tables
        self.own: dict[str, list[Trace]] = {}
        if folder and (Path(folder) / "manifest.json").is_file():
            self.run = Run.open(folder)
            self.problems = self.run.problems()
            if self.run.valued:
                settings = self.run.manifest["settings"]
                budget, segmentation = Budget(**settings["budget"]), Segmentation(**settings["steps"])
                solutions, rollouts = settings.get("solutions", False), self.run.count("rollouts") > 0
                self.valuing = Valuing(budget, segmentation, solutions, rollouts)
        else:
            self.problems, traces = read_solutions(folder, task, problems_from, reading, bool(tables))
            for trace in traces:
                self.own.setdefault(trace.problem, []).append(trace)

    def __len__(self) -> int:
        return len(self.problems)

    def __iter__(self) -> Iterator[Answered]:
        groups = {table: _Groups(self.run.read(table)) for table in self.tables} if self.run else {}
        for problem in self.problems:
            tables = {table: group.take(problem.id) for table, group in groups.items()}
            tables.setdefault("traces", self.own.get(problem.id, []))
            yield self._answered(problem, **tables)
        for table, group in groups.items():
            if group.head is not None:
                assert self.run is not None
                raise UserError(f"{self.run.path}: {table} of {group.head[0]!r} are not in the order of the problems")

    def _answered(self, problem: Problem, traces: list[Trace], values: Any = (), rollouts: Any = ()) -> Answered:
        prompt_ids = solution_ids = None
        if traces and traces[0].prompt_ids is not None:
            prompt_ids = list(traces[0].prompt_ids)
        elif self.encode is not None:
            prompt_ids = self.encode(problem.question)
            traces = [
                replace(trace, prompt_ids=prompt_ids, token_ids=encode_response(self.tokenizer, trace.text, self.end))
                for trace in traces
            ]
        teacher = None
        if problem.solution:
            if self.tokenizer is not None:
                solution_ids = encode_response(self.tokenizer, problem.solution, self.end)
            teacher = Trace(problem.id, -1, prompt_ids, solution_ids, problem.solution, "stop", CORRECT)
        prompt = self.prompting.asked(self.task, problem.question)
        answers = [trace for trace in traces if trace.sample >= 0]
        if len(answers) < len(traces):
            teacher = traces[-1]
        own = [one for one in values if one.sample >= 0]
        teacher_values = next((one for one in values if one.sample < 0), None)
        return Answered(problem, prompt, prompt_ids, teacher, answers, own, list(rollouts), teacher_values)


class _Groups:
    """The rows of a table, problem by problem."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self.groups = itertools.groupby(rows, key=lambda row: row.problem)
        self.head = next(self.groups, None)

    def take(self, problem: str) -> list[Any]:
        """The rows of ``problem`` if they come next."""
        if self.head is None or self.head[0] != problem:
            return []
        rows = list(self.head[1])
        self.head = next(self.groups, None)
        return rows


def first_problems(problems: list[Problem], count: int, seed: int) -> set[str]:
    """``count`` of the problems by ``seed``. A larger count takes the same and more: such sets are nested."""
    order = [problem.id for problem in problems]
    random.Random(f"problems {seed}").shuffle(order)
    return set(order[:count])


def held_out(problems: list[Problem], share: float, seed: int) -> set[str]:
    """A ``share`` of the problems, for validation."""
    order = [problem.id for problem in problems]
    random.Random(f"validation {seed}").shuffle(order)
    return set(order[: round(share * len(order))])
