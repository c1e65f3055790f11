"""Peak memory of step DPO, against OpenRLHF's stock DPOTrainer: same pairs, same model, same updates, and the pairs of
a forward pass of either side the same in number.

    python benchmarks/step_dpo_memory.py

The pairs are those of step_dpo_algorithm1.py, or with --kind shared_prefix of step_dpo_shared_prefix.py, of GSM8K's
lengths. The stock trainer takes --micro_batch_size of them at once, ours at most the distinct tokens of as many pairs
of one problem. Peaks are the resident memory above that of the process before it loads the model. The last line is
the peak of ours / of stock, by the medians. Aim: 0.6.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import step_dpo_algorithm1
import step_dpo_shared_prefix
from dpo_pairs import distinct, in_turn, parser, prepare


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--kind", choices=["algorithm1", "shared_prefix"], default="algorithm1", help="of the pairs")
    flags.add_argument("--pairs", type=int, default=8, help="pairs a problem of --kind shared_prefix")
    flags.add_argument("--accuracy", type=float, default=0.25, help="share of right answers of --kind algorithm1")
    args = flags.parse_args()
    made = step_dpo_algorithm1 if args.kind == "algorithm1" else step_dpo_shared_prefix
    pairs = made.make_pairs(args, random.Random(0))
    problems: dict[Any, list[dict[str, Any]]] = {}
    for pair in pairs:
        problems.setdefault(pair["problem"], []).append(pair)
    args.max_tokens_per_gpu = args.max_tokens_per_gpu or max(map(distinct, problems.values()))
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), args, pairs)
        found = in_turn(args, Path(folder))
    print("MiB of the peak       stock    ours")
    for part in ("weights", "optimizer", "gradients"):
        print(f"{part:18}{found['stock'][0][part] / 2**20:9.0f}{found['ours'][0][part] / 2**20:8.0f}")
    peaks = {kind: median(run["peak"] for run in runs) for kind, runs in found.items()}
    rest = [
        peaks[kind] - sum(found[kind][0][part] for part in ("weights", "optimizer", "gradients")) for kind in peaks
    ]
    print(f"{'activations, rest':18}{rest[0] / 2**20:9.0f}{rest[1] / 2**20:8.0f}")
    print(f"{'peak':18}{peaks['stock'] / 2**20:9.0f}{peaks['ours'] / 2**20:8.0f}")
    print(f"ratio {peaks['ours'] / peaks['stock']:.2f}")


if __name__ == "__main__":
    main()
