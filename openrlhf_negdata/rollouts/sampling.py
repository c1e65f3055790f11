"""Letting a policy answer problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from openrlhf_negdata.records import Problem, Trace, content_seed
from openrlhf_negdata.rollouts.engines import Engines, Request, Sampling


def encode_response(tokenizer: Any, text: str, end: int | None = None) -> list[int]:
    """Token ids of a whole response that came as text, tokenised apart from its prompt so that no token spans the
    boundary, and its ``end``: the end-of-sequence token unless another is given."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id if end is None else end]


def decode_responses(tokenizer: Any, responses: list[list[int]]) -> list[str]:
    """The text of whole responses as graders see it: no special tokens, nothing tidied up."""
    return tokenizer.batch_decode(responses, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def answer_problems(
    engines: Engines,
    problems: Iterable[Problem],
    encode: Callable[[str], list[int]],
    tokenizer: Any,
    *,
    samples: int,
    sampling: Sampling,
    max_tokens: int,
    seed: object,
    told: Callable[[int], object] | None = None,
) -> Iterator[list[Trace]]:
    """``samples`` responses to each problem, problem by problem; none is longer than ``max_tokens`` tokens.

    ``encode`` makes the prompt of a question. ``seed`` and the prompt's ids decide the draws, so that a run that is
    repeated or resumed draws the same. ``told`` is called with how many problems have been answered, before their
    turn.
    """
    asked = [(problem, encode(problem.question)) for problem in problems]
    requests = (
        Request(prompt_ids, samples, max_tokens, content_seed(seed, prompt_ids, problem.id))
        for problem, prompt_ids in asked
    )
    for (problem, prompt_ids), continuations in zip(asked, engines.generate(requests, sampling, told), strict=True):
        texts = decode_responses(tokenizer, [c.token_ids for c in continuations])
        yield [
            Trace(problem.id, i, prompt_ids, continuation.token_ids, text, continuation.finish_reason)
            for i, (continuation, text) in enumerate(zip(continuations, texts, strict=True))
        ]
