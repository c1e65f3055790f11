"""What is known of a problem and of the answers to it: the records that every part of the package speaks of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

CORRECT, WRONG, TRUNCATED, NO_ANSWER, TIMED_OUT, FAILED = OUTCOMES = (
    "correct",
    "wrong",
    "truncated",
    "no_answer",
    "timed_out",
    "failed",  # the grader raised, or its process died
)


@dataclass(frozen=True)
class Problem:
    """A question and its gold answer, perhaps with a teacher's solution."""

    id: str
    question: str
    gold: str
    solution: str | None = None


@dataclass(frozen=True)
class Graded:
    """An outcome, and the answer that was extracted from the response (None if there was none)."""

    outcome: str
    answer: str | None


@dataclass(frozen=True)
class Trace:
    """One sampled response. ``token_ids`` are the ids the engine sampled, its end-of-sequence token included."""

    problem: str
    sample: int
    prompt_ids: list[int] | None
    token_ids: list[int] | None
    text: str
    finish_reason: str | None
    outcome: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class StepValues:
    """Rollouts counted at every step of a trace.

    Step i is ``token_ids[step_ends[i-1]:step_ends[i]]``. ``count[i]`` rollouts were made from the prefix before step
    i and ``correct[i]`` of them were right, so ``correct[i] / count[i]`` is the value before step i. The value after
    the last step is the trace's outcome; no rollouts are made there. ``count[i]`` is 0 where the budget asked for
    none. ``pit`` is the first pit, where the budget was spent on finding it alone.
    """

    problem: str
    sample: int
    step_ends: list[int]
    correct: list[int]
    count: list[int]
    pit: int | None = None


@dataclass(frozen=True)
class Rollout:
    """One sampled continuation ``token_ids`` of the prompt of ``problem`` and the response tokens ``prefix_ids``.

    ``seed`` is the one vLLM drew it with: a digest of model, sampling, budget of tokens, prompt and prefix, plus the
    number of the draw. With ``prefix_ids`` and the manifest it identifies the draw.
    """

    problem: str
    prefix_ids: list[int]
    token_ids: list[int]
    outcome: str
    seed: int


def content_seed(*content: object) -> int:
    """A 31-bit seed that depends on ``content`` alone, so that equal work draws equal samples wherever it is done."""
    return int.from_bytes(hashlib.sha256(repr(content).encode()).digest()[:4], "big") >> 1
