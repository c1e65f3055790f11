"""Train on the pairs of `negdata build` with TRL's DPOTrainer, their token ids untouched.

    python examples/trl_dpo.py --model MODEL --pairs pairs.jsonl --output_dir trained --learning_rate 5e-7 --beta 0.1

All flags of TRL's DPOConfig count. From text, TRL would tokenize each side again, and put an end-of-sequence token
after a step in mid-answer. Nothing is cut: leave long rows out with `negdata build --data.max_len`. TRL has no weight
a pair, so rows with one are refused. Tested with TRL 1.13.
"""

import sys
from dataclasses import dataclass

from datasets import Dataset, load_dataset
from trl import DPOConfig, DPOTrainer, TrlParser

IDS = ["prompt_ids", "chosen_ids", "rejected_ids"]


@dataclass
class Files:
    model: str
    pairs: str


class TokenDPOTrainer(DPOTrainer):
    """DPOTrainer on rows of token ids, which is what its collator takes."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset.select_columns(IDS)


def read_pairs(file: str) -> Dataset:
    rows = load_dataset("json", data_files=file, split="train")
    if missing := [name for name in IDS if name not in rows.column_names]:
        sys.exit(f"{file}: no {missing[0]}: give a set of pairs, built with token ids")
    if "weight" in rows.column_names:
        sys.exit(f"{file}: its pairs have weights, which TRL does not read: use train_step_dpo, or build without")
    return rows


def main() -> None:
    files, config = TrlParser((Files, DPOConfig)).parse_args_and_config()
    config.max_length = None
    trainer = TokenDPOTrainer(files.model, args=config, train_dataset=read_pairs(files.pairs))
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
