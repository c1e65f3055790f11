"""The arm ``sft``: the teacher's solutions, D_syn."""

from __future__ import annotations

from typing import Any

from openrlhf_negdata.datasets.rows import Account, Row, sft_row
from openrlhf_negdata.rollouts.sampling import encode_prompt
from openrlhf_negdata.tasks import Problem, Task


def build(
    problems: list[Problem], task: Task, tokenizer: Any | None, chat_template: bool
) -> tuple[list[Row], list[Account]]:
    """A row a problem that has a solution. With a tokenizer: prompt and solution tokenised apart, so that no token
    spans the boundary, then its end-of-sequence token; without one, text alone."""
    account, rows = Account("problems"), []
    for problem in problems:
        if not problem.solution:
            account.drop("no_solution")
            continue
        account.keep()
        prompt_ids = response_ids = None
        if tokenizer is not None:
            prompt_ids = encode_prompt(tokenizer, task, problem.question, chat_template)
            response_ids = tokenizer(problem.solution, add_special_tokens=False)["input_ids"] + [
                tokenizer.eos_token_id
            ]
        prompt = task.prompt(problem.question)
        rows.append(sft_row(tokenizer, problem.id, prompt, problem.solution, prompt_ids, response_ids))
    return rows, [account]
