"""Pairs a second of step DPO on algorithm1 pairs, against OpenRLHF's stock DPOTrainer: same pairs, same model, same
updates.

    python benchmarks/step_dpo_algorithm1.py

The pairs are those that `negdata build algorithm1` makes of 8 sampled answers a problem, once for each share of right
answers: a question of 80 tokens, answers of 3 to 6 steps of 25 tokens that have nothing in common, and the pit of a
wrong one at any of its steps. The pass for the reference counts on our side, its forward passes on the other. The last
line is pairs a second of ours / of stock, by the medians, for the share that gives the least. Aim: 2.0.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from dpo_pairs import compare_speed, parser, tokens

from openrlhf_negdata.datasets.arms.algorithm1 import Algorithm1
from openrlhf_negdata.datasets.rows import Account, Answered
from openrlhf_negdata.records import CORRECT, WRONG, Problem, StepValues, Trace

QUESTION, STEP, SAMPLES = 80, 25, 8


def make_pairs(args: argparse.Namespace, draw: random.Random) -> list[dict[str, Any]]:
    arm = Algorithm1(pit="lowest_advantage")
    pairs: list[dict[str, Any]] = []
    for number in range(args.problems):
        question = tokens(draw, QUESTION, args.vocabulary)
        traces, values = [], []
        for sample in range(SAMPLES):
            outcome = CORRECT if draw.random() < args.accuracy else WRONG
            ends = [STEP * (step + 1) for step in range(draw.randint(3, 6))]
            pit = len(ends) if outcome == CORRECT else draw.randrange(len(ends))
            # Rollouts are all right up to the pit, and all wrong after it.
            right = [8 * (step <= pit) for step in range(len(ends))]
            ids = tokens(draw, ends[-1], args.vocabulary)
            traces.append(Trace(f"{number}", sample, question, ids, "", "stop", outcome))
            values.append(StepValues(f"{number}", sample, ends, right, [8] * len(ends)))
        known = Answered(Problem(f"{number}", "", ""), "", question, None, traces, values)
        pairs += arm.rows(known, Account(arm.unit))
    return [{name: pair[name] for name in ("problem", "prompt_ids", "chosen_ids", "rejected_ids")} for pair in pairs]


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument(
        "--accuracies", type=float, nargs="+", default=[0.25, 0.5, 0.75], help="shares of right answers"
    )
    args = flags.parse_args()
    ratios = {}
    for accuracy in args.accuracies:
        print(f"{100 * accuracy:.0f} % of the answers right")
        args.accuracy = accuracy
        ratios[accuracy] = compare_speed(args, make_pairs(args, random.Random(0)))
    least = min(ratios, key=ratios.__getitem__)
    print(f"ratio {ratios[least]:.2f} ({100 * least:.0f} % right)")


if __name__ == "__main__":
    main()
