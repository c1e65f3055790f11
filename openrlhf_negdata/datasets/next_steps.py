"""The next steps that were taken from a prefix, each with its value: what the arms ``siblings`` and ``theorem``
pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from openrlhf_negdata.datasets.rows import Account, Answered, Limited, Origin, Row, ValuedArm, capped, source
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.flags import flag
from openrlhf_negdata.records import CORRECT, TRUNCATED, Rollout
from openrlhf_negdata.steps.estimates import best_of
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import first_step, step_key
from openrlhf_negdata.steps.values import Estimator

Ids = tuple[int, ...]
ByPrefix = Mapping[Ids, Sequence[Rollout]]


@dataclass
class Step:
    """A next step from a prefix: how many rollouts went through it, and the right continuations from the prefix on
    with where they are from. ``outcome`` is 1 or 0 where an answer ended with it: then that is its value."""

    count: int = 0
    correct: int = 0
    right: list[tuple[Sequence[int], str]] = field(default_factory=list)
    source: str = "rollouts"
    outcome: float | None = None

    def add(self, rollout: Rollout, begun: Ids = ()) -> None:
        self.count += 1
        if rollout.outcome == CORRECT:
            self.correct += 1
            self.right.append(([*begun, *rollout.token_ids], f"rollout {rollout.seed}"))

    def known(self) -> tuple[int, int] | float:
        """The outcome, or how many rollouts are right and how many there are."""
        return (self.correct, self.count) if self.outcome is None else self.outcome

    def q(self, estimator: Estimator) -> float:
        if self.outcome is not None:
            return self.outcome
        return best_of(self.correct, self.count, estimator.best_of, estimator.biased)


@dataclass
class OfNextSteps(Limited, ValuedArm):
    """Pairs of next steps from one prefix.

    A step's value is the share of right ones among the rollouts that began with it and those made from the prefix
    that ends with it; it needs ``min_rollouts`` of them. Of a step that ended an answer it is the outcome.
    """

    min_rollouts: int = flag(4, "rollouts a step is valued by", least=1)
    #: The end of the first step of a continuation of a prefix, in tokens of the continuation.
    first_step: Callable[[Ids, list[int]], int] | None = None
    #: What steps share if they are the same; here their tokens.
    step_key: Callable[[Ids], Hashable] = tuple

    tables: ClassVar[tuple[str, ...]] = ("traces", "values", "rollouts")
    unit: ClassVar[str] = "prefixes"

    def begin(self, origin: Origin) -> None:
        super().begin(origin)
        assert origin.valuing is not None
        if not origin.valuing.rollouts:
            raise UserError(f"{origin.name} has step values but none of the rollouts behind them")
        tokenizer, task, segmentation = origin.tokenizer, origin.task, origin.valuing.segmentation
        self.first_step = lambda prefix, ids: (
            first_step([*prefix, *ids], tokenizer, task, segmentation, len(prefix)) - len(prefix)
        )
        self.step_key = lambda step: step_key(step, tokenizer, task)

    def rollouts_a_value(self, budget: Budget) -> tuple[int, str]:
        return self.min_rollouts, "--min_rollouts"

    def units(self, known: Answered) -> int:
        return len(by_prefix(known))

    def rows(self, known: Answered, account: Account) -> Iterator[Row]:
        rollouts = by_prefix(known)
        pairs = (self.pair(known, prefix, rollouts) for prefix in rollouts)
        yield from capped(pairs, self.per_problem, known.rng(self.seed, "per_problem"), account)

    def pair(self, known: Answered, prefix: Ids, rollouts: ByPrefix) -> Row | str:
        """The pair of a prefix, or why there is none."""
        raise NotImplementedError

    def begun(self, prefix: Ids, rollout: Rollout) -> Ids | None:
        """The first step of a rollout; None where it ran out of tokens within it: that is no step."""
        assert self.first_step is not None
        end = self.first_step(prefix, rollout.token_ids)
        if end == len(rollout.token_ids) and (end == 0 or rollout.outcome == TRUNCATED):
            return None
        return tuple(rollout.token_ids[:end])

    def steps_of_rollouts(self, prefix: Ids, rollouts: ByPrefix) -> dict[Ids, Step]:
        """The next steps that rollouts from ``prefix`` took, valued by them and by those made after the step."""
        steps: dict[Ids, Step] = defaultdict(Step)
        for rollout in rollouts[prefix]:
            if (taken := self.begun(prefix, rollout)) is not None:
                steps[taken].add(rollout)
        for taken, step in steps.items():
            for rollout in rollouts.get(prefix + taken, ()):
                step.add(rollout, taken)
        return dict(steps)


def add_answers(steps: dict[Ids, Step], known: Answered, prefix: Ids, rollouts: ByPrefix) -> None:
    """Add the next steps that the valued answers themselves took from ``prefix``."""
    for trace, values in known.valued():
        ids = tuple(trace.token_ids or ())
        edges = [0, *values.step_ends]
        if len(prefix) not in edges[:-1] or ids[: len(prefix)] != prefix:
            continue
        end = edges[edges.index(len(prefix)) + 1]
        taken = ids[len(prefix) : end]
        if taken not in steps:
            steps[taken] = step = Step(source=source(trace))
            for rollout in rollouts.get(prefix + taken, ()):
                step.add(rollout, taken)
        if end == edges[-1]:
            steps[taken].outcome = float(trace.outcome == CORRECT)
        if trace.outcome == CORRECT:
            steps[taken].right.append((ids[len(prefix) :], source(trace)))


def joined(steps: dict[Ids, Step], key: Callable[[Ids], Hashable]) -> dict[Ids, Step]:
    """``steps`` with those of one ``key`` as one step, which goes by the wording that has most rollouts."""
    wordings: dict[Hashable, list[Ids]] = defaultdict(list)
    for taken in steps:
        wordings[key(taken)].append(taken)
    found = {}
    for same in wordings.values():
        most = max(same, key=lambda taken: steps[taken].count)
        found[most] = one = steps[most]
        for other in (steps[taken] for taken in same if taken != most):
            one.count += other.count
            one.correct += other.correct
            one.right += other.right
            one.outcome = other.outcome if one.outcome is None else one.outcome
    return found


def by_prefix(known: Answered) -> dict[Ids, list[Rollout]]:
    found: dict[Ids, list[Rollout]] = defaultdict(list)
    for rollout in known.rollouts:
        found[tuple(rollout.prefix_ids)].append(rollout)
    return dict(found)
