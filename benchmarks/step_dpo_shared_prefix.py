"""Pairs a second of step DPO on shared-prefix pairs, against OpenRLHF's stock DPOTrainer: same pairs, same model, same
updates.

    python benchmarks/step_dpo_shared_prefix.py

Lengths are GSM8K's: a question of 80 tokens, 80 of a prefix (four steps), a step of 25 on either side; the pairs of a
problem come from different wrong answers and fork after different steps. The pass for the reference counts on our
side, its forward passes on the other. The last line is pairs a second of ours / of stock, by the medians. Aim: 2.0.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from dpo_pairs import compare_speed, parser, tokens


def make_pairs(args: argparse.Namespace, draw: random.Random) -> list[dict[str, Any]]:
    pairs = []
    for problem in range(args.problems):
        question = tokens(draw, 80, args.vocabulary)
        for _ in range(args.pairs):
            prompt = question + tokens(draw, 80, args.vocabulary)
            sides = {side: tokens(draw, 25, args.vocabulary) for side in ("chosen_ids", "rejected_ids")}
            pairs.append({"problem": problem, "prompt_ids": prompt} | sides)
    return pairs


if __name__ == "__main__":
    flags = parser(__doc__)
    flags.add_argument("--pairs", type=int, default=8, help="pairs a problem")
    args = flags.parse_args()
    print(f"ratio {compare_speed(args, make_pairs(args, random.Random(0))):.2f}")
