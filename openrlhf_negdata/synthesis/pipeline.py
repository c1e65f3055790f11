"""From one seed problem to one new problem: written, checked and mended, solved several times, kept where the answers
agree.

An attempt ends as ``kept`` or for one of the reasons of :data:`DROPPED`. What it was is a row of the journal, with
every reply.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from openrlhf_negdata.datasets.decontaminate import HeldOut, normalised
from openrlhf_negdata.grading import Grader
from openrlhf_negdata.records import CORRECT, Problem, content_seed
from openrlhf_negdata.synthesis import PLACEHOLDER
from openrlhf_negdata.synthesis.client import GaveUp, Rejected, Reply

KEPT = "kept"
DROPPED = {
    "no_problem": "the reply to new_problem or verify holds neither a problem nor a refusal",
    "refused": "verify found the problem beyond mending",
    "duplicate": "the question is that of a seed problem, or of one kept before",
    "contaminated": "the question, or a long run of its words, is in a test set",
    "no_answer": "no solution ends in an answer",
    "disagree": "too few solutions give the same answer",
    "truncated": "a reply ran out of tokens: that of new_problem or verify, or those of solve, so that none answers",
    "rejected": "the server will not answer the request, which may be too long for the model",
    "failed": "the server did not answer, however often it was asked; made again when the command is run again",
}
#: Where a reply holds several, as one that thinks aloud may, the last counts.
_VERDICT = re.compile(r"<problem>(?P<question>.*?)</problem>|<refused\s*/?>", re.DOTALL)

Ask = Callable[[str, int], Awaitable[Reply]]


class _Dropped(Exception):
    """Ends an attempt. ``args``: the reason, and perhaps what it was found by."""


@dataclass(frozen=True)
class Recipe:
    """How attempts are made. ``seen``: the normalised questions of all seed problems. ``agree``: how many of
    ``solutions`` must give the same answer, more than half."""

    ask: Ask
    prompts: dict[str, str]
    grader: Grader
    solutions: int
    agree: int
    seed: int
    seen: Collection[str]
    held_out: HeldOut

    async def attempt(self, number: int, seed: Problem) -> dict[str, Any]:
        """Make attempt ``number``: a row for the journal."""
        replies: list[dict[str, Any]] = []
        row = {"attempt": number, "seed": seed.id}
        try:
            row |= {"outcome": KEPT, **await self._make(number, seed, replies)}
        except _Dropped as dropped:
            reason, *detail = dropped.args
            row |= {"outcome": reason} | ({"detail": detail[0]} if detail else {})
        return row | {"replies": replies}

    async def _make(self, number: int, seed: Problem, replies: list[dict[str, Any]]) -> dict[str, Any]:
        question = seed.question
        for stage in ("new_problem", "verify"):
            reply = await self._reply(stage, question, number, 0, replies)
            question = read_question(reply)
        if normalised(question) in self.seen:
            raise _Dropped("duplicate")
        if (name := self.held_out.found(question)) is not None:
            raise _Dropped("contaminated", name)
        solved = await self._solve(number, question, replies)
        groups = await self._agreeing(number, seed, question, solved)
        if not groups:
            cut = any(reply.finish_reason == "length" for reply in solved)
            raise _Dropped("truncated" if cut else "no_answer")
        problem, agreed = max(groups, key=lambda group: group[1])
        if agreed < self.agree:
            raise _Dropped("disagree", {problem.gold: count for problem, count in groups})
        return {**asdict(problem), "agreed": agreed, "solutions": self.solutions}

    async def _solve(self, number: int, question: str, replies: list[dict[str, Any]]) -> list[Reply]:
        """The solutions, in the order of their draws. Where one fails the others are waited for: they are paid for,
        and belong into the journal."""
        draws = (self._reply("solve", question, number, draw, replies) for draw in range(self.solutions))
        solved = await asyncio.gather(*draws, return_exceptions=True)
        replies.sort(key=lambda reply: (reply["stage"] == "solve", reply["number"]))
        for error in solved:
            if isinstance(error, BaseException):
                raise error
        return [reply for reply in solved if isinstance(reply, Reply)]

    async def _reply(self, stage: str, question: str, number: int, draw: int, replies: list[dict[str, Any]]) -> Reply:
        prompt = self.prompts[stage].replace(PLACEHOLDER, question)
        try:
            reply = await self.ask(prompt, content_seed(self.seed, number, draw, prompt))
        except GaveUp as error:
            raise _Dropped("failed", str(error)) from None
        except Rejected as error:
            raise _Dropped("rejected", str(error)) from None
        replies.append({"stage": stage, "number": draw, **asdict(reply)})
        return reply

    async def _agreeing(
        self, number: int, seed: Problem, question: str, solved: list[Reply]
    ) -> list[tuple[Problem, int]]:
        """Each distinct answer as a problem with the first solution that gives it, and how many give it.

        The task's grader decides what is an answer, and whether two are the same.
        """
        groups: list[tuple[Problem, int]] = []
        for reply in solved:
            graded = await self._grade(seed.gold, reply)
            problem = self._problem(number, question, graded.answer, reply.text.strip())
            if problem is None:
                continue
            for i, (first, count) in enumerate(groups):
                if (await self._grade(first.gold, reply)).outcome == CORRECT:
                    groups[i] = (first, count + 1)
                    break
            else:
                groups.append((problem, 1))
        return groups

    async def _grade(self, gold: str, reply: Reply) -> Any:
        return await asyncio.wrap_future(self.grader.submit(gold, reply.text, reply.finish_reason))

    def _problem(self, number: int, question: str, answer: str | None, solution: str) -> Problem | None:
        """The new problem as the task reads it; None where its answer is none that the task can hold."""
        if answer is None:
            return None
        row = {"id": f"syn-{number}", "question": question, "gold": answer, "solution": solution}
        try:
            return self.grader.task.problem(row, number)
        except (ValueError, KeyError, TypeError):
            return None


def read_question(reply: Reply) -> str:
    """The question in a reply to ``new_problem`` or ``verify``."""
    if reply.finish_reason == "length":
        raise _Dropped("truncated")
    verdicts = list(_VERDICT.finditer(reply.text))
    if verdicts and verdicts[-1]["question"] is None:
        raise _Dropped("refused")
    question = verdicts[-1]["question"].strip() if verdicts else ""
    if not question:
        raise _Dropped("no_problem")
    return question


def assemble(rows: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The problems of finished attempts, and how many attempts ended how.

    ``rows`` are in the order of the attempts, so that which of two equal questions is kept does not depend on which
    was finished first.
    """
    problems: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for row in rows:
        outcome = row["outcome"]
        if outcome == KEPT and normalised(row["question"]) in seen:
            outcome = "duplicate"
        counts[outcome] += 1
        if outcome == KEPT:
            seen.add(normalised(row["question"]))
            problems.append(
                {key: row[key] for key in ("id", "question", "gold", "solution", "seed", "agreed", "solutions")}
            )
    return problems, counts
