"""Letting a policy answer problems."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.rollouts.engines import Engines, Request, Sampling, content_seed
from openrlhf_negdata.rollouts.store import Trace
from openrlhf_negdata.tasks import Problem, Task


def beginning(tokenizer: Any, chat_template: bool = False, no_bos: bool = False) -> list[int]:
    """The ids that a prompt begins with because the model's tokenizer puts them before every text: its
    beginning-of-sequence token, if it has that habit, for the model was trained so.

    A chat template writes its own. OpenRLHF puts none (openrlhf/utils/agent.py:216, datasets/sft_dataset.py:150), so
    that it is said once on stderr where there are some, and ``no_bos`` leaves them out.
    """
    if chat_template or no_bos:
        return []
    whole, bare = tokenizer("x")["input_ids"], tokenizer("x", add_special_tokens=False)["input_ids"]
    ends = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    if ends:
        _say_once(
            f"prompts begin with {tokenizer.decode(whole[:ends])}, as every text of this tokenizer does "
            f"({tokenizer.name_or_path}). OpenRLHF's own trainers put none: for a model that they trained without a "
            "chat template give --data.no_bos"
        )
    return whole[:ends]


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def encode_prompt(
    tokenizer: Any, task: Task, question: str, chat_template: bool = False, begins: Sequence[int] = ()
) -> list[int]:
    """Token ids of the prompt, after those that :func:`beginning` gave, unless its text begins with them already."""
    text = task.prompt(question)
    if chat_template:
        message = [{"role": "user", "content": text}]
        try:
            text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # no template: ValueError; a template may raise whatever it likes
            reason = str(error).split("\n")[0].split("! ")[0]
            raise UserError(f"--data.apply_chat_template: {tokenizer.name_or_path}: {reason}") from error
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids if ids[: len(begins)] == list(begins) else [*begins, *ids]


def encode_response(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a whole response that came as text, tokenised apart from its prompt so that no token spans the
    boundary, and its end-of-sequence token."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def decode_responses(tokenizer: Any, responses: list[list[int]]) -> list[str]:
    """The text of whole responses as graders see it: no special tokens, nothing tidied up."""
    return tokenizer.batch_decode(responses, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def answer_problems(
    engines: Engines,
    problems: Iterable[Problem],
    task: Task,
    tokenizer: Any,
    *,
    samples: int,
    sampling: Sampling,
    max_tokens: int,
    chat_template: bool,
    begins: Sequence[int],
    seed: object,
) -> Iterator[list[Trace]]:
    """``samples`` responses to each problem, problem by problem; none is longer than ``max_tokens`` tokens.

    ``seed`` and the prompt's ids decide the draws, so that a run that is repeated or resumed draws the same.
    """
    asked = [
        (problem, encode_prompt(tokenizer, task, problem.question, chat_template, begins)) for problem in problems
    ]
    requests = (
        Request(prompt_ids, samples, max_tokens, content_seed(seed, prompt_ids, problem.id))
        for problem, prompt_ids in asked
    )
    for (problem, prompt_ids), continuations in zip(asked, engines.generate(requests, sampling), strict=True):
        texts = decode_responses(tokenizer, [c.token_ids for c in continuations])
        yield [
            Trace(problem.id, i, prompt_ids, continuation.token_ids, text, continuation.finish_reason)
            for i, (continuation, text) in enumerate(zip(continuations, texts, strict=True))
        ]
