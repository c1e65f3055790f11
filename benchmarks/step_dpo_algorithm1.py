"""Pairs a second of step DPO on algorithm1 pairs, against OpenRLHF's stock DPOTrainer: two epochs, same pairs, same
model, same updates.

    python benchmarks/step_dpo_algorithm1.py

Lengths are GSM8K's: a question of 80 tokens, a right answer of 130 that all pairs of a problem share, and eight wrong
ones cut after 2 to 5 steps of 25 tokens, of which none to all but the last are the right answer's own. The pass for
the reference counts on our side, its forward passes on the other. The last line is pairs a second of ours / of stock,
by the medians. Aim: 2.0.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from dpo_pairs import compare_speed, tokens


def make_pairs(args: argparse.Namespace, draw: random.Random) -> list[dict[str, Any]]:
    pairs = []
    for problem in range(args.problems):
        question, right = tokens(draw, 80, args.vocabulary), tokens(draw, 130, args.vocabulary)
        for _ in range(args.pairs):
            steps = draw.randint(2, 5)
            common = draw.randint(0, steps - 1)
            wrong = right[: 25 * common] + tokens(draw, 25 * (steps - common), args.vocabulary)
            pairs.append({"problem": problem, "prompt_ids": question, "chosen_ids": right, "rejected_ids": wrong})
    return pairs


if __name__ == "__main__":
    compare_speed(__doc__, make_pairs)
