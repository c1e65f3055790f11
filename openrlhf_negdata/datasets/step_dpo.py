"""The arm ``step-dpo``: pairs that blame the step that lost the answer (Setlur et al. 2024, section 4 and Algorithm
1).

Three pairings:

- ``algorithm1``: a correct answer against the wrong one cut right after its first pit, from the bare prompt.
- ``shared_prefix``: from the prefix before the pit, a correct rollout against the pit alone (Self-Explore; the
  theory's shared prefix), or against all that follows.
- ``siblings``: from any prefix, the next steps that rollouts took are valued by their rollouts, and the best is
  paired with the worst (Theorem 6.1: continuations of one prefix, compared by advantage). Needs no rollouts beyond
  those values cost anyway.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from openrlhf_negdata.datasets.rows import Account, Answered, Arm, Row, ValuedArm, drawn_in_order, ids_pair_row, source
from openrlhf_negdata.rollouts.engines import content_seed
from openrlhf_negdata.rollouts.store import Rollout, StepValues, Trace
from openrlhf_negdata.steps.estimates import best_of
from openrlhf_negdata.steps.values import Estimator, advantages, halves
from openrlhf_negdata.tasks import CORRECT, TRUNCATED

Ids = tuple[int, ...]


@dataclass
class AtPits(ValuedArm):
    """Pairs at the first pits that ``estimator`` finds. A pit whose advantage is above ``-estimator.min_drop`` blames
    nobody: dropped, unless the rollouts were spent on finding it alone.

    ``positives``: correct answers have pits too, their spurious steps (fig 10). ``weighed``: a pair weighs what its
    pit lost. At most ``per_problem`` pairs a problem, drawn by ``seed``; -1: all.
    """

    estimator: Estimator
    seed: int = 0
    per_problem: int = -1
    positives: bool = False
    weighed: bool = False
    halved: list[tuple[float, float]] = field(default_factory=list)

    name = ""

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        self.halved += _split_sample(known, self.estimator, self.positives)
        made = (self._at_pit(known, trace, values) for trace, values in known.valued())
        yield from _capped(made, self.per_problem, known.rng(self.seed, "per_problem"), account)

    def _at_pit(self, known: Answered, trace: Trace, values: StepValues) -> Row | str:
        """The pair of a valued answer, or why there is none."""
        if trace.outcome == CORRECT and not self.positives:
            return "correct"
        q = self.estimator.q(values, str(trace.outcome))
        pit = self.estimator.first_pit(values, str(trace.outcome))
        if pit is None:
            return "no_pit"
        drop = -advantages(q)[pit]
        if values.pit is None and (not drop > 0 or drop < self.estimator.min_drop):
            return "pit_drop_too_small"
        rng = random.Random(content_seed(self.seed, self.name, trace.problem, trace.sample))
        edges = [0, *values.step_ends]
        sides = self.sides(known, trace, edges[pit], edges[pit + 1], rng)
        if isinstance(sides, str):
            return sides
        shared, chosen, rejected, chosen_from = sides
        if chosen == rejected:
            return "equal"
        figures = {"chosen_from": chosen_from, "rejected_from": source(trace), "pit": pit, "steps": len(edges) - 1}
        figures |= {"q_before": _rounded(q[pit]), "q_rejected": _rounded(q[pit + 1])}
        if self.weighed:
            figures["weight"] = round(drop, 4)
        return ids_pair_row(known, shared, chosen, rejected, **figures)

    def sides(
        self, known: Answered, trace: Trace, start: int, end: int, rng: random.Random
    ) -> tuple[list[int], list[int], list[int], str] | str:
        """What both sides share, the chosen and the rejected continuation and where the chosen is from; or why there
        is no pair. The pit is ``trace.token_ids[start:end]``."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        if not self.halved:
            return []
        chose, other = (sum(column) / len(self.halved) for column in zip(*self.halved, strict=True))
        return [
            f"Pits chosen by half of the rollouts lose {chose:.3f} of Q by that half and {other:.3f} by the other "
            f"({len(self.halved)} answers): what chose a pit flatters it, so take the second figure."
        ]


@dataclass
class Algorithm1(AtPits):
    """``teacher``: the chosen answer is the teacher's solution, in place of one of the policy's own."""

    teacher: bool = False
    name = "algorithm1"

    def sides(
        self, known: Answered, trace: Trace, start: int, end: int, rng: random.Random
    ) -> tuple[list[int], list[int], list[int], str] | str:
        if self.teacher:
            others = [known.teacher] if known.teacher else []
        else:
            others = [other for other in known.right() if other is not trace]
        if not others:
            return "no_solution" if self.teacher else "no_correct_answer"
        chosen = rng.choice(others)
        return [], list(chosen.token_ids or ()), list(trace.token_ids or ())[:end], source(chosen)


@dataclass
class SharedPrefix(AtPits):
    """``rest``: rejected is the pit with all that follows it, in place of the pit alone. ``same_step``: the chosen
    rollout may take the very step that is blamed, as some rollouts do and still get there."""

    rest: bool = False
    same_step: bool = False
    name = "shared_prefix"

    def sides(
        self, known: Answered, trace: Trace, start: int, end: int, rng: random.Random
    ) -> tuple[list[int], list[int], list[int], str] | str:
        ids = list(trace.token_ids or ())
        shared, pit = ids[:start], ids[start:end]
        others = [
            rollout
            for rollout in known.rollouts
            if rollout.outcome == CORRECT
            and rollout.prefix_ids == shared
            and (self.same_step or rollout.token_ids[: len(pit)] != pit)
        ]
        if not others:
            return "no_correct_rollout"
        chosen = rng.choice(others)
        return shared, chosen.token_ids, ids[start:] if self.rest else pit, f"rollout {chosen.seed}"


def _capped(made: Iterable[Row | str], per_problem: int, rng: random.Random, account: Account) -> list[Row]:
    """The pairs of a problem, at most ``per_problem``; what gave no pair is dropped for the reason it comes with."""
    found = []
    for row in made:
        if isinstance(row, str):
            account.drop(row)
        else:
            found.append(row)
    taken = drawn_in_order(found, per_problem, rng)
    account.cap(len(taken), len(found))
    return taken


def _rounded(q: float) -> float | None:
    return None if math.isnan(q) else round(q, 4)


def _split_sample(known: Answered, estimator: Estimator, positives: bool) -> Iterator[tuple[float, float]]:
    """How much value a pit loses: by the half of the rollouts that chose it, and by the other."""
    ids = {(trace.problem, trace.sample): trace.token_ids or [] for trace in known.traces}
    outcomes = {trace.sample: str(trace.outcome) for trace in known.traces}
    for even, odd in halves(ids, known.values, known.rollouts):
        outcome = outcomes[even.sample]
        if (outcome == CORRECT and not positives) or min(*even.count, *odd.count) < estimator.best_of:
            continue
        pit = estimator.first_pit(even, outcome)
        if pit is not None:
            chose, other = (-advantages(estimator.q(half, outcome))[pit] for half in (even, odd))
            yield chose, other


@dataclass
class _Step:
    """A next step that rollouts from one prefix took: how many went through it, and the right continuations."""

    count: int = 0
    right: list[tuple[Sequence[int], int]] = field(default_factory=list)

    def q(self, estimator: Estimator) -> float:
        return best_of(len(self.right), self.count, estimator.best_of, estimator.biased)


@dataclass
class Siblings(Arm):
    """From each prefix, the best and the worst next step whose values differ by ``min_gap`` or more.

    A step's value is the share of right ones among the rollouts that began with it and those made from the prefix
    that ends with it; it needs ``min_rollouts`` of them. Chosen: a right continuation through the best step;
    rejected: the worst step. ``first_step`` gives the end of the first step of a continuation of a prefix. At most
    ``per_problem`` pairs a problem, drawn by ``seed``; -1: all. ``weighed``: a pair weighs what the values differ by.
    """

    estimator: Estimator
    first_step: Callable[[Ids, list[int]], int]
    min_gap: float = 0.3
    min_rollouts: int = 4
    seed: int = 0
    per_problem: int = -1
    weighed: bool = False

    unit = "prefixes"

    def units(self, known: Answered) -> int:
        return len({tuple(rollout.prefix_ids) for rollout in known.rollouts})

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        by_prefix: dict[Ids, list[Rollout]] = defaultdict(list)
        for rollout in known.rollouts:
            by_prefix[tuple(rollout.prefix_ids)].append(rollout)
        made = (self._best_and_worst(known, prefix, by_prefix) for prefix in list(by_prefix))
        yield from _capped(made, self.per_problem, known.rng(self.seed, "per_problem"), account)

    def _best_and_worst(self, known: Answered, prefix: Ids, by_prefix: dict[Ids, list[Rollout]]) -> Row | str:
        """The pair of a prefix, or why there is none."""
        steps = self._next_steps(prefix, by_prefix)
        valued = {taken: step for taken, step in steps.items() if step.count >= self.min_rollouts}
        if len(valued) < 2:
            return "one_step" if len(steps) < 2 else "too_few_rollouts"
        q = {taken: step.q(self.estimator) for taken, step in valued.items()}
        best, worst = max(q, key=q.__getitem__), min(q, key=q.__getitem__)
        if q[best] - q[worst] < self.min_gap:
            return "gap_too_small"
        # They may with a minimal gap of 0 or less, with a delimiter that may be longer, and where the answer may end.
        right = [one for one in valued[best].right if tuple(one[0][: len(worst)]) != worst]
        if not right:
            return "worst_begins_best"
        rng = random.Random(content_seed(self.seed, "siblings", known.problem.id, prefix))
        chosen, seed = rng.choice(right)
        figures = {"chosen_from": f"rollout {seed}", "rejected_from": "rollouts", "shared_tokens": len(prefix)}
        figures |= {"q_chosen": round(q[best], 4), "q_rejected": round(q[worst], 4)}
        if self.weighed:
            figures["weight"] = round(q[best] - q[worst], 4)
        return ids_pair_row(known, prefix, chosen, worst, **figures)

    def _next_steps(self, prefix: Ids, by_prefix: dict[Ids, list[Rollout]]) -> dict[Ids, _Step]:
        steps: dict[Ids, _Step] = defaultdict(_Step)
        for rollout in by_prefix[prefix]:
            end = self.first_step(prefix, rollout.token_ids)
            if end == len(rollout.token_ids) and (end == 0 or rollout.outcome == TRUNCATED):
                continue  # it ran out of tokens within the step: that is no step
            step = steps[tuple(rollout.token_ids[:end])]
            step.count += 1
            if rollout.outcome == CORRECT:
                step.right.append((rollout.token_ids, rollout.seed))
        for taken, step in steps.items():
            for rollout in by_prefix.get(prefix + taken, ()):
                step.count += 1
                if rollout.outcome == CORRECT:
                    step.right.append(([*taken, *rollout.token_ids], rollout.seed))
        return steps
