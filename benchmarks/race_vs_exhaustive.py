"""Tokens that `--value.budget race` generates for pairs of next steps, against those of M x K rollouts a prefix.

    python benchmarks/race_vs_exhaustive.py

Policies have 64 next steps of different frequency and value, so that the true gap of every pair is known. Both roll
out the same candidates: the distinct steps of M draws and those of the wrong answers. The race gives rollouts to the
best and the worst so far; the other K to each, with the least K that decides as many pairs with equal confidence.
Prints the share of the pairs whose true gap is at least the asked one, what the estimated gap is more than the true
one (best and worst are picked by their estimates, which flatters them), and last tokens of M x K / tokens of the race.
Aim: 95 % of the pairs, and a ratio of at least 3.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tabular import Policy

from openrlhf_negdata.records import CORRECT
from openrlhf_negdata.steps.monte_carlo import Answer, Budget, Draw, Prefix, value_problem
from openrlhf_negdata.steps.race import LEAST, Counts, apart, widest

#: A step's tokens, and those of what follows it.
STEP, REST = 8, 40


@dataclass
class Wide(Policy):
    """A step of ``STEP`` tokens, one of ``wide``, drawn with Zipf's frequencies; its value is drawn from the Beta
    distribution of ``shape``. What follows it is right with the chance that is its value."""

    seed: int
    shape: tuple[float, float] = (1.0, 1.0)
    wide: int = 64
    values: list[float] = field(init=False)
    drawn: dict[tuple[Prefix, int], Draw] = field(default_factory=dict)

    steps = 1 + REST

    def __post_init__(self) -> None:
        rng = random.Random(f"wide {self.seed}")
        self.values = [rng.betavariate(*self.shape) for _ in range(self.wide)]

    def following(self, prefix: Prefix) -> list[tuple[int, float]]:
        if prefix:
            return [(self.wide, 1.0)]
        total = sum(1 / (1 + step) for step in range(self.wide))
        return [(step, 1 / (1 + step) / total) for step in range(self.wide)]

    def right(self, response: Prefix) -> float:
        return self.values[response[0]]

    async def next_steps(self, prefix: Prefix, rest: Sequence[Sequence[int]]) -> list[tuple[Prefix, object] | None]:
        return [None if prefix else ((ids[0],), (ids[0],)) for ids in rest]

    def draw(self, prefix: Prefix, number: int) -> Draw:
        if (prefix, number) not in self.drawn:
            self.drawn[prefix, number] = super().draw(prefix, number)
        return self.drawn[prefix, number]

    def wrong(self, count: int) -> list[Answer]:
        return [Answer(answer.token_ids, [self.steps], False) for answer in self.answers(count, correct=False)]


def tokens(made: dict[Prefix, list[Draw]]) -> int:
    return sum(STEP * (not prefix) + REST for prefix, draws in made.items() for _ in draws)


def counts(made: dict[Prefix, list[Draw]]) -> dict[int, Counts]:
    """By step, right and all rollouts: those that began with it and those from its end."""
    found: dict[int, Counts] = {}
    for prefix, draws in made.items():
        for draw in draws:
            step = (*prefix, *draw.token_ids)[0]
            right, count = found.get(step, (0, 0))
            found[step] = (right + (draw.outcome == CORRECT), count + 1)
    return {step: some for step, some in found.items() if some[1] >= LEAST}


@dataclass
class Result:
    """``pairs``: the true and the estimated gap of each pair that is decided."""

    tokens: int = 0
    pairs: list[tuple[float, float]] = field(default_factory=list)

    def add(self, policy: Wide, made: dict[Prefix, list[Draw]], budget: Budget) -> None:
        self.tokens += tokens(made)
        some = counts(made)
        if apart(some, budget.gap) >= budget.gap_confidence:
            best, worst = widest(some)
            (c, n), (d, m) = some[best], some[worst]
            self.pairs.append((policy.values[best] - policy.values[worst], c / n - d / m))

    def told(self, name: str, prefixes: int, gap: float) -> str:
        true, estimated = np.array(self.pairs).T
        share = np.mean(true >= gap)
        half = 1.96 * (share * (1 - share) / len(true)) ** 0.5
        return (
            f"{name:14} {len(true)} pairs from {prefixes} prefixes, true gap wide enough in {100 * share:.1f} +- "
            f"{100 * half:.1f} %, {self.tokens:,} tokens, estimated gap {np.mean(estimated - true):+.3f} of the true"
        )


def raced(policies: list[Wide], answers: int, budget: Budget) -> Result:
    result = Result()
    for policy in policies:
        made, _ = asyncio.run(value_problem(policy.wrong(answers), budget, policy.roll_out, policy.next_steps))
        result.add(policy, made, budget)
    return result


def uniform(policies: list[Wide], answers: int, budget: Budget, k: int) -> Result:
    """M draws from the prefix, and ``k`` from the end of each distinct step of theirs and of the answers."""
    result = Result()
    for policy in policies:
        first = [policy.draw((), number) for number in range(budget.n_rollouts)]
        steps = {draw.token_ids[0] for draw in first} | {answer.token_ids[0] for answer in policy.wrong(answers)}
        made = {(step,): [policy.draw((step,), number) for number in range(k)] for step in steps}
        result.add(policy, {(): first, **made}, budget)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", type=int, default=400, help="policies of either kind: one prefix each")
    parser.add_argument("--answers", type=int, default=4, help="distinct wrong answers a policy")
    parser.add_argument("--n_rollouts", type=int, default=16, help="M: draws from the prefix")
    parser.add_argument("--n_race", type=int, default=Budget.n_race, help="most rollouts of a race")
    parser.add_argument("--gap", type=float, default=Budget.gap)
    parser.add_argument("--gap_confidence", type=float, default=Budget.gap_confidence)
    args = parser.parse_args()
    budget = Budget("race", args.n_rollouts, gap=args.gap, gap_confidence=args.gap_confidence, n_race=args.n_race)
    ratios = []
    for name, shape in (("even", (1.0, 1.0)), ("mostly right", (4.0, 1.5)), ("mostly wrong", (0.7, 2.0))):
        policies = [Wide(seed, shape) for seed in range(args.policies)]
        race = raced(policies, args.answers, budget)
        k, other = 1, uniform(policies, args.answers, budget, 1)
        while len(other.pairs) < len(race.pairs) and k < 1024:
            k += max(1, k // 8)
            other = uniform(policies, args.answers, budget, k)
        print(race.told(f"{name}: race", args.policies, args.gap))
        print(other.told(f"{name}: K = {k}", args.policies, args.gap))
        ratios.append(other.tokens / race.tokens)
        print(f"{name}: {ratios[-1]:.2f}", flush=True)
    print(f"ratio {min(ratios):.2f}")


if __name__ == "__main__":
    main()
