"""The arm ``rft``: the policy's own correct answers (rejection-sampling fine-tuning, D+)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from openrlhf_negdata.datasets.rows import Account, Row, sft_row
from openrlhf_negdata.rollouts.store import Trace
from openrlhf_negdata.tasks import CORRECT, Problem, Task


def build(
    problems: list[Problem], traces: list[Trace], task: Task, tokenizer: Any | None, per_problem: int
) -> tuple[list[Row], list[Account]]:
    """Up to ``per_problem`` distinct correct answers a problem (-1: all), the ids as they were sampled."""
    prompts = {problem.id: task.prompt(problem.question) for problem in problems}
    account, rows = Account("answers"), []
    seen: set[tuple[str, object]] = set()
    taken: Counter[str] = Counter()
    for trace in traces:
        content = trace.text if trace.token_ids is None else tuple(trace.token_ids)
        if trace.outcome != CORRECT:
            account.drop(str(trace.outcome))
        elif (trace.problem, content) in seen:
            account.drop("duplicate")
        elif 0 <= per_problem <= taken[trace.problem]:
            account.drop("over_per_problem")
        else:
            account.keep()
            seen.add((trace.problem, content))
            taken[trace.problem] += 1
            rows.append(
                sft_row(
                    tokenizer, trace.problem, prompts[trace.problem], trace.text, trace.prompt_ids, trace.token_ids
                )
            )
    return rows, [account]
