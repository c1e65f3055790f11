"""Tokens that `--value.budget sequential` generates to find first pits, against those of `exhaustive`.

    python benchmarks/sequential_vs_exhaustive.py

Both value the same wrong answers of policies whose Q is known exactly, so that the true first pit is known: the first
step with the lowest exact Q after it. `exhaustive` makes K rollouts at every step and takes `lowest_q`, the default.
Prints, for each policy, how often either names the true pit, the tokens of both, and how far the Q that `sequential`
leaves behind lie from the exact ones (it stops when it knows enough, so they are biased). The last line is tokens of
exhaustive / tokens of sequential on the policy where that is least. Aim: at least 3, with agreement no lower.
"""

from __future__ import annotations

import argparse
import asyncio
import math

import numpy as np
from tabular import Policy, Star, Table

from openrlhf_negdata.records import CORRECT, WRONG, StepValues
from openrlhf_negdata.steps.monte_carlo import Answer, Budget, Draw, Prefix, value_problem
from openrlhf_negdata.steps.values import Estimator


def true_pit(policy: Policy, answer: Answer) -> int:
    q = [policy.q(tuple(answer.token_ids[:end])) for end in answer.step_ends[:-1]] + [0.0]
    return q.index(min(q))


def step_values(answer: Answer, draws: dict[Prefix, list[Draw]], pit: int | None) -> StepValues:
    made = [draws.get(prefix, []) for prefix in answer.prefixes()]
    right = [sum(draw.outcome == CORRECT for draw in here) for here in made]
    return StepValues("", 0, list(answer.step_ends), right, list(map(len, made)), pit)


def compare(name: str, policies: list[Policy], answers: int, sequential: Budget, exhaustive: Budget) -> float:
    agreed, tokens, errors = {}, {}, {}
    for budget in (exhaustive, sequential):
        agreed[budget.kind], tokens[budget.kind], error = [], 0, []
        for policy in policies:
            wrong = policy.answers(answers, correct=False)
            draws, pits = asyncio.run(value_problem(wrong, budget, policy.roll_out))
            tokens[budget.kind] += sum(len(draw.token_ids) for made in draws.values() for draw in made)
            for answer, pit in zip(wrong, pits, strict=True):
                found = Estimator().first_pit(step_values(answer, draws, pit), WRONG)
                agreed[budget.kind].append(found == true_pit(policy, answer))
            error += [np.mean([d.outcome == CORRECT for d in made]) - policy.q(p) for p, made in draws.items()]
        errors[budget.kind] = (np.mean(error), np.std(error) / math.sqrt(len(error)))
    for budget in (exhaustive, sequential):
        share = np.mean(agreed[budget.kind])
        half = 1.96 * math.sqrt(share * (1 - share) / len(agreed[budget.kind]))
        bias, deviation = errors[budget.kind]
        print(
            f"{name}: {budget.kind:10}  true pit in {100 * share:.1f} +- {100 * half:.1f} % of "
            f"{len(agreed[budget.kind])} answers, {tokens[budget.kind]:9,} tokens, "
            f"mean error of Q {bias:+.4f} +- {1.96 * deviation:.4f}"
        )
    return tokens[exhaustive.kind] / tokens[sequential.kind]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", type=int, default=100, help="policies of either kind")
    parser.add_argument("--answers", type=int, default=8, help="distinct wrong answers a policy")
    parser.add_argument("--n_rollouts", type=int, default=8, help="K: of exhaustive, and the most of sequential")
    args = parser.parse_args()
    exhaustive, sequential = (Budget(kind, args.n_rollouts) for kind in ("exhaustive", "sequential"))
    ratios = [
        compare(name, policies, args.answers, sequential, exhaustive)
        for name, policies in (
            ("table", [Table(seed) for seed in range(args.policies)]),
            ("star graph", [Star(seed) for seed in range(args.policies)]),
        )
    ]
    print(f"ratio {min(ratios):.2f}")


if __name__ == "__main__":
    main()
