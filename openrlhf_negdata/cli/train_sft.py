"""Supervised fine-tuning on token ids: the arms sft and rft, and the base of a small task.

    python -m openrlhf_negdata.cli.train_sft --model.model_name_or_path M --data.dataset rft.jsonl --ckpt.output_dir
    OUT

The loss is that of OpenRLHF's SFTTrainer. What differs from openrlhf.cli.train_sft: rows are the ids that `negdata
build` wrote, so a sampled response is trained on as it was sampled; no row of an epoch is left out; the output folder
appears whole or not at all; a run that was killed goes on from its last checkpoint (--ckpt.save_steps) when run again,
and one that is done does nothing.
"""

import sys

from openrlhf_negdata.trainers import command, flags


def train(args, strategy):
    from openrlhf_negdata.trainers import rows

    rows.train(args, strategy, weighted=False)


if __name__ == "__main__":
    parser = flags.make_parser("train_sft", __doc__, lr=5e-6, epochs=2)
    flags.add_row_flags(parser)
    sys.exit(command.run(parser, train))
