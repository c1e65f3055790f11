"""Sets of answers that are Python objects: no folder, no file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from openrlhf_negdata.datasets import arms
from openrlhf_negdata.datasets.rows import Account, Answered, Arm, Limited, Origin, Row, Valuing, readable
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.flags import flags_of, made
from openrlhf_negdata.records import CORRECT, Problem, Trace
from openrlhf_negdata.rollouts.sampling import decode_responses, encode_response
from openrlhf_negdata.steps.driver import ValueJob, ValueResult
from openrlhf_negdata.tasks import Task


def answered(
    problem: Problem,
    prompt_ids: Sequence[int],
    answers: Sequence[tuple[Sequence[int], str]],
    tokenizer: Any,
    valued: tuple[ValueJob, ValueResult] | None = None,
) -> Answered:
    """A problem and the answers to it, each its token ids and its outcome, as arms take them. ``valued``: the job that
    valued these very answers, in this order, and what it found.

    ValueError where ``valued`` is of others.
    """
    ids = [(list(answer), outcome) for answer, outcome in answers]
    texts = decode_responses(tokenizer, [answer for answer, _ in ids])
    traces = [
        Trace(problem.id, sample, list(prompt_ids), answer, text, None, outcome)
        for sample, ((answer, outcome), text) in enumerate(zip(ids, texts, strict=True))
    ]
    teacher = None
    if problem.solution:
        solution = encode_response(tokenizer, problem.solution)
        teacher = Trace(problem.id, -1, list(prompt_ids), solution, problem.solution, "stop", CORRECT)
    known = Answered(problem, "", list(prompt_ids), teacher, traces)
    if valued is not None:
        job, result = valued
        if (list(job.prompt_ids), [(list(answer), outcome) for answer, outcome in job.answers]) != (
            list(prompt_ids),
            ids,
        ):
            raise ValueError(f"problem {problem.id!r}: what was valued are other answers, or to another prompt")
        known.values, known.rollouts = result.records(job, problem.id)
    return known


def build_rows(
    arm: str | Arm,
    problems: Iterable[Answered],
    tokenizer: Any,
    task: Task,
    valuing: Valuing | None = None,
    *,
    seed: int = 0,
    **settings: Any,
) -> tuple[list[Row], list[Account]]:
    """The rows that an arm makes, in the order of the problems, and the account of all that went in: one a part.

    ``arm``: a name of ``negdata build``, with its flags as ``settings``, or an arm that was made.
    ``valuing``: how the step values were made, which arms of step values ask for.

    UserError where the answers lack what the arm is made of.
    """
    if isinstance(arm, str):
        kind = arms.load(arm)
        if unknown := settings.keys() - flags_of(kind).keys():
            raise UserError(f"{arm} has no {', '.join(sorted(unknown))}")
        arm = made(kind, argparse.Namespace(**settings), seed=seed)
    if isinstance(arm, Limited) and arm.balanced:
        raise UserError("balanced is for `negdata build`")
    known = list(problems)
    if "values" in arm.tables and (valuing is None or not any(one.values for one in known)):
        raise UserError("the answers have no step values: value them first, and say how (valuing)")
    arm.begin(Origin("these answers", task, tokenizer, valuing))
    rows, accounts = [], []
    for part in arm.parts():
        part.prepare(known)
        accounts.append(Account(part.unit))
        rows += [readable(row, tokenizer) for one in known for row in part.rows(one, accounts[-1])]
    return rows, accounts
