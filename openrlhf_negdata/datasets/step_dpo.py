"""The arm ``step-dpo``: pairs that blame the step that lost the answer (Setlur et al. 2024, section 4 and Algorithm
1).

Three pairings:

- ``algorithm1``: a correct answer against the wrong one cut right after its first pit, from the bare prompt.
- ``shared_prefix``: from the prefix before the pit, a correct rollout against the pit alone (Self-Explore; the
  theory's shared prefix).
- ``siblings``: from any prefix, the next steps that rollouts took are valued by their rollouts, and the best is
  paired with the worst (Theorem 6.1: continuations of one prefix, compared by advantage). Needs no rollouts beyond
  those values cost anyway.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from openrlhf_negdata.datasets.rows import Account, Row, pair_row
from openrlhf_negdata.rollouts.engines import content_seed
from openrlhf_negdata.rollouts.store import Rollout, StepValues, Trace
from openrlhf_negdata.steps.estimates import best_of
from openrlhf_negdata.steps.values import Estimator, advantages, halves
from openrlhf_negdata.tasks import CORRECT, TRUNCATED

Ids = tuple[int, ...]


def build_at_pits(
    pairing: str,
    traces: Iterable[Trace],
    values: Iterable[StepValues],
    rollouts: Iterable[Rollout],
    tokenizer: Any,
    estimator: Estimator,
    seed: int,
) -> tuple[list[Row], list[Account]]:
    """Pairs of ``algorithm1`` or ``shared_prefix`` at the first pits that ``estimator`` finds. A pit whose advantage
    is above ``-estimator.min_drop`` blames nobody: dropped, unless the rollouts were spent on finding it alone."""
    account, rows = Account("valued answers"), []
    values, rollouts = list(values), list(rollouts)
    by_key = {(trace.problem, trace.sample): trace for trace in traces}
    correct: dict[str, list[Trace]] = defaultdict(list)
    for trace in by_key.values():
        if trace.outcome == CORRECT:
            correct[trace.problem].append(trace)
    right_from: dict[tuple[str, Ids], list[list[int]]] = defaultdict(list)
    for rollout in rollouts:
        if rollout.outcome == CORRECT:
            right_from[rollout.problem, tuple(rollout.prefix_ids)].append(rollout.token_ids)
    for value in values:
        trace = by_key[value.problem, value.sample]
        if trace.outcome == CORRECT:
            account.drop("correct")
            continue
        q = estimator.q(value, str(trace.outcome))
        pit = estimator.first_pit(value, str(trace.outcome))
        if pit is None:
            account.drop("no_pit")
            continue
        drop = -advantages(q)[pit]
        if value.pit is None and (not drop > 0 or drop < estimator.min_drop):
            account.drop("pit_drop_too_small")
            continue
        assert trace.token_ids is not None
        assert trace.prompt_ids is not None
        start, end = ([0, *value.step_ends][pit], value.step_ends[pit])
        rng = random.Random(content_seed(seed, pairing, trace.problem, trace.sample))
        if pairing == "algorithm1":
            if not correct[trace.problem]:
                account.drop("no_correct_answer")
                continue
            chosen, shared, rejected = rng.choice(correct[trace.problem]).token_ids, 0, trace.token_ids[:end]
        else:
            shared, rejected = start, trace.token_ids[start:end]
            # A rollout that takes the pit's step and still gets there would be chosen and rejected for the same step.
            others = [
                ids
                for ids in right_from[trace.problem, tuple(trace.token_ids[:start])]
                if ids[: len(rejected)] != rejected
            ]
            if not others:
                account.drop("no_correct_rollout")
                continue
            chosen = rng.choice(others)
        assert chosen is not None
        if chosen == rejected:
            account.drop("equal")
            continue
        account.keep()
        ids = ([*trace.prompt_ids, *trace.token_ids[:shared]], chosen, rejected)
        figures = {"q_before": _rounded(q[pit]), "q_rejected": _rounded(q[pit + 1])}
        rows.append(pair_row(tokenizer, trace.problem, "", "", "", ids, **figures))
    account.notes += _split_sample(by_key, values, rollouts, estimator)
    return rows, [account]


def _rounded(q: float) -> float | None:
    return None if math.isnan(q) else round(q, 4)


def _split_sample(
    traces: dict[tuple[str, int], Trace], values: list[StepValues], rollouts: list[Rollout], estimator: Estimator
) -> list[str]:
    """How much value the pits lose: by the rollouts that chose them, and by others."""
    ids = {key: trace.token_ids or [] for key, trace in traces.items()}
    drops = []
    for even, odd in halves(ids, values, rollouts):
        outcome = str(traces[even.problem, even.sample].outcome)
        if outcome == CORRECT or min(*even.count, *odd.count) < estimator.best_of:
            continue
        pit = estimator.first_pit(even, outcome)
        if pit is not None:
            drops.append([-advantages(estimator.q(half, outcome))[pit] for half in (even, odd)])
    if not drops:
        return []
    chose, other = (sum(column) / len(drops) for column in zip(*drops, strict=True))
    return [
        f"Pits chosen by half of the rollouts lose {chose:.3f} of Q by that half and {other:.3f} by the other "
        f"({len(drops)} answers): what chose a pit flatters it, so take the second figure."
    ]


@dataclass
class _Step:
    """A next step that rollouts from one prefix took: how many went through it, and the right continuations."""

    count: int = 0
    right: list[list[int]] = field(default_factory=list)

    def q(self, estimator: Estimator) -> float:
        return best_of(len(self.right), self.count, estimator.best_of, estimator.biased).value


def build_siblings(
    traces: Iterable[Trace],
    rollouts: Iterable[Rollout],
    tokenizer: Any,
    first_step: Callable[[list[int]], int],
    estimator: Estimator,
    min_gap: float,
    min_rollouts: int,
    seed: int,
) -> tuple[list[Row], list[Account]]:
    """From each prefix, the best and the worst next step whose values differ by ``min_gap`` or more.

    A step's value is the share of right ones among the rollouts that began with it and those made from the prefix
    that ends with it; it needs ``min_rollouts`` of them. Chosen: a right continuation through the best step;
    rejected: the worst step. ``first_step`` gives the end of the first step of a continuation.
    """
    prompts = {trace.problem: trace.prompt_ids for trace in traces}
    by_prefix: dict[tuple[str, Ids], list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_prefix[rollout.problem, tuple(rollout.prefix_ids)].append(rollout)
    account, rows = Account("prefixes"), []
    for (problem, prefix), here in by_prefix.items():
        steps: dict[Ids, _Step] = defaultdict(_Step)
        for rollout in here:
            end = first_step(rollout.token_ids)
            if end == len(rollout.token_ids) and (end == 0 or rollout.outcome == TRUNCATED):
                continue  # it ran out of tokens within the step: that is no step
            step = steps[tuple(rollout.token_ids[:end])]
            step.count += 1
            if rollout.outcome == CORRECT:
                step.right.append(rollout.token_ids)
        for taken, step in steps.items():
            for rollout in by_prefix.get((problem, prefix + taken), ()):
                step.count += 1
                if rollout.outcome == CORRECT:
                    step.right.append([*taken, *rollout.token_ids])
        valued = {taken: step for taken, step in steps.items() if step.count >= min_rollouts}
        if len(valued) < 2:
            account.drop("one_step" if len(steps) < 2 else "too_few_rollouts")
            continue
        q = {taken: step.q(estimator) for taken, step in valued.items()}
        best, worst = max(q, key=q.__getitem__), min(q, key=q.__getitem__)
        if q[best] - q[worst] < min_gap:
            account.drop("gap_too_small")
            continue
        if best[: len(worst)] == worst:  # a minimal gap of 0 or less, or a delimiter that may be longer
            account.drop("worst_begins_best")
            continue
        account.keep()
        chosen = random.Random(content_seed(seed, "siblings", problem, prefix)).choice(valued[best].right)
        ids = ([*(prompts[problem] or []), *prefix], chosen, list(worst))
        figures = {"q_chosen": round(q[best], 4), "q_rejected": round(q[worst], 4)}
        rows.append(pair_row(tokenizer, problem, "", "", "", ids, **figures))
    return rows, [account]


def shuffled(rows: list[Row], seed: int) -> list[Row]:
    """The rows in random order: neighbours are no longer of one problem, and the first N are a fair sample of all."""
    order = list(rows)
    random.Random(seed).shuffle(order)
    return order
