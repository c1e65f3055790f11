"""Advantage-weighted training on token ids: the arm advantage-weighted.

    python -m openrlhf_negdata.cli.train_advantage_weighted --model.model_name_or_path SFT
    --data.dataset weighted.jsonl --ckpt.output_dir OUT

Each token of a response is learned with the weight of its step, exp(A / beta) as `negdata build advantage-weighted`
wrote it; the loss is normalised by the tokens of the whole update, as OpenRLHF's SFT is. The output folder appears
whole or not at all; a run that was killed goes on from its last checkpoint (--ckpt.save_steps) when run again, and
one that is done does nothing.
"""

import sys

from openrlhf_negdata.trainers import command, flags


def train(args, strategy):
    from openrlhf_negdata.trainers import rows

    rows.train(args, strategy, weighted=True)


if __name__ == "__main__":
    parser = flags.make_parser("train_advantage_weighted", __doc__, lr=5e-6, epochs=2)
    flags.add_row_flags(parser)
    sys.exit(command.run(parser, train))
