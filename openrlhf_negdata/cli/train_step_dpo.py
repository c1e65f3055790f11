"""Direct preference optimization on pairs of token ids: the arms dpo, algorithm1, shared-prefix, siblings.

    python -m openrlhf_negdata.cli.train_step_dpo --model.model_name_or_path SFT --data.dataset pairs.jsonl
    --ckpt.output_dir OUT

The ids are those that `negdata build` wrote: a step that does not end the answer has no end-of-sequence token, nothing
is cut, and pairs that cannot be trained on are dropped and counted. What pairs share is computed once; the reference's
log-probabilities are computed before training and kept (docs/training.md). The reference is the starting model unless
--ref.model_name_or_path names another. The output folder appears whole or not at all; a run
that was killed goes on from its last checkpoint (--ckpt.save_steps) when run again, and one that is done does
nothing.
"""

import argparse
import sys
from typing import Any

from openrlhf_negdata.trainers import command, flags


def train(args: Any, strategy: Any) -> None:
    from openrlhf_negdata.trainers import pairs

    pairs.train(args, strategy)


def make_parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("train_step_dpo", __doc__, lr=1e-5, epochs=1)
    flags.add_pair_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(command.run(make_parser(), train, attention="flex_attention"))
