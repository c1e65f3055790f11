"""The arm ``dpo``: naive pairs, any correct answer with any wrong answer of the same problem (Rafailov et al.
2023)."""

from __future__ import annotations

import random
from typing import Any

from openrlhf_negdata.datasets.rows import Account, Row, pair_row
from openrlhf_negdata.rollouts.engines import content_seed
from openrlhf_negdata.rollouts.store import Trace
from openrlhf_negdata.tasks import CORRECT, NO_ANSWER, WRONG, Problem, Task


def build(
    problems: list[Problem], traces: list[Trace], task: Task, tokenizer: Any | None, per_problem: int, seed: int
) -> tuple[list[Row], list[Account]]:
    """A pair for each of up to ``per_problem`` distinct wrong answers (-1: all), with a correct answer drawn at
    random."""
    prompts = {problem.id: task.prompt(problem.question) for problem in problems}
    account, rows = Account("answers"), []
    by_problem: dict[str, list[Trace]] = {problem.id: [] for problem in problems}
    for trace in traces:
        by_problem[trace.problem].append(trace)
    for problem, answers in by_problem.items():
        distinct: dict[object, Trace] = {}
        for trace in answers:
            content = trace.text if trace.token_ids is None else tuple(trace.token_ids)
            if trace.outcome not in (CORRECT, WRONG, NO_ANSWER):
                account.drop(str(trace.outcome))
            elif content in distinct:
                account.drop("duplicate")
            else:
                distinct[content] = trace
        correct = [trace for trace in distinct.values() if trace.outcome == CORRECT]
        wrong = [trace for trace in distinct.values() if trace.outcome != CORRECT]
        if not correct or not wrong:
            for _ in distinct:
                account.drop("problem_all_wrong" if wrong else "problem_all_correct")
            continue
        rng = random.Random(content_seed(seed, problem))
        rejected_answers = wrong if per_problem < 0 else rng.sample(wrong, min(per_problem, len(wrong)))
        used = set()
        for rejected in rejected_answers:
            chosen = rng.choice(correct)
            used |= {id(chosen), id(rejected)}
            ids = None
            if chosen.prompt_ids is not None and chosen.token_ids is not None and rejected.token_ids is not None:
                ids = (chosen.prompt_ids, chosen.token_ids, rejected.token_ids)
            rows.append(pair_row(tokenizer, problem, prompts[problem], chosen.text, rejected.text, ids))
        for trace in distinct.values():
            account.keep() if id(trace) in used else account.drop("not_drawn")
    return rows, [account]
