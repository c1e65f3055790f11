"""The arm ``sft``: the teacher's solutions, D_syn."""

from __future__ import annotations

from typing import Any

from openrlhf_negdata.datasets.rows import Account, Row, sft_row
from openrlhf_negdata.rollouts.sampling import encode_prompt, encode_response
from openrlhf_negdata.tasks import Problem, Task


def build(
    problems: list[Problem], task: Task, tokenizer: Any | None, chat_template: bool
) -> tuple[list[Row], list[Account]]:
    """A row a problem that has a solution: with a tokenizer text and token ids, without one text alone."""
    account, rows = Account("problems"), []
    for problem in problems:
        if not problem.solution:
            account.drop("no_solution")
            continue
        account.keep()
        prompt_ids = response_ids = None
        if tokenizer is not None:
            prompt_ids = encode_prompt(tokenizer, task, problem.question, chat_template)
            response_ids = encode_response(tokenizer, problem.solution)
        prompt = task.prompt(problem.question)
        rows.append(sft_row(tokenizer, problem.id, prompt, problem.solution, prompt_ids, response_ids))
    return rows, [account]
