"""Pairs a second of step DPO on shared_prefix pairs, against OpenRLHF's stock DPOTrainer: two epochs, same pairs, same
model, same updates.

    python benchmarks/step_dpo_shared_prefix.py

Lengths are GSM8K's: a question of 80 tokens, 80 of a prefix (four steps), a step of 25 on either side; the pairs of a
problem come from different wrong answers and fork after different steps. The pass for the reference counts on our
side, its forward passes on the other. The last line is pairs a second of ours / of stock, by the medians. Aim: 2.0.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from dpo_pairs import distinct, in_turn, parser, prepare, tokens


def make_pairs(args: argparse.Namespace, draw: random.Random) -> list[dict[str, Any]]:
    pairs = []
    for problem in range(args.problems):
        question = tokens(draw, 80, args.vocabulary)
        for _ in range(args.pairs):
            prompt = question + tokens(draw, 80, args.vocabulary)
            sides = {side: tokens(draw, 25, args.vocabulary) for side in ("chosen_ids", "rejected_ids")}
            pairs.append({"problem": problem, "prompt_ids": prompt} | sides)
    return pairs


def main() -> None:
    args = parser(__doc__).parse_args()
    pairs = make_pairs(args, random.Random(0))
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args, pairs)
        found = in_turn(args, Path(folder))
    stock, ours = (median(run["seconds"] for run in found[kind]) for kind in ("stock", "ours"))
    padded = sum(2 * (len(pair["prompt_ids"]) + 25) for pair in pairs)
    # Of four passes a token (forward, backward as two, reference), the reference is computed in one epoch alone.
    floor = 4 * args.epochs * padded / ((3 * args.epochs + 1) * distinct(pairs))
    print(f"{len(pairs)} pairs, {padded:,} tokens, {distinct(pairs):,} distinct: by tokens alone {floor:.2f}")
    print(f"stock {args.epochs * len(pairs) / stock:.1f} pairs/s, ours {args.epochs * len(pairs) / ours:.1f} pairs/s")
    print(f"ratio {stock / ours:.2f}")


if __name__ == "__main__":
    main()
