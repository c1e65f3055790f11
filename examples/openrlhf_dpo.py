"""OpenRLHF's own DPO command on the pairs of `negdata build`, their token ids untouched.

    PYTHONPATH=examples negdata launch openrlhf_dpo --model.model_name_or_path MODEL --data.dataset pairs.jsonl ...

The flags are those of openrlhf.cli.train_dpo (without CUDA give --ds.attn_implementation sdpa). Its data set takes
text: it strips newlines, tokenizes again, and puts an end-of-sequence token after a step in mid-answer
(openrlhf/datasets/reward_dataset.py:138-176). The one here takes its place. Rows over --data.max_len are left out and
counted. OpenRLHF has no weight a pair, so rows with one are refused. `openrlhf_negdata.cli.train_step_dpo` trains on
the same rows, weights too, and is faster.
"""

import runpy
import sys

import openrlhf.datasets
import torch
from openrlhf.datasets import RewardDataset


class TokenPairs(RewardDataset):
    """Rows of ``prompt_ids``, ``chosen_ids`` and ``rejected_ids`` in the shape that DPOTrainer takes."""

    is_dpo = True

    def __init__(self, dataset, tokenizer, max_length, strategy, input_template=None, is_dpo=True) -> None:
        self.tokenizer = tokenizer
        ids = "prompt_ids", "chosen_ids", "rejected_ids"
        if missing := [name for name in ids if name not in dataset.column_names]:
            sys.exit(f"--data.dataset: no {missing[0]}: give a set of pairs, built with token ids")
        if "weight" in dataset.column_names:
            sys.exit("--data.dataset: its pairs have weights, which OpenRLHF does not read: use train_step_dpo")
        rows = [tuple(row[name] for name in ids) for row in dataset]
        self.rows = [(p, c, r) for p, c, r in rows if len(p) + max(len(c), len(r)) <= max_length]
        strategy.print(f"{len(self.rows)} pairs, {len(rows) - len(self.rows)} over --data.max_len left out")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int]:
        prompt, *sides = self.rows[index]
        chosen, rejected = (torch.tensor([prompt + side]) for side in sides)
        return chosen, torch.ones_like(chosen), rejected, torch.ones_like(rejected), len(prompt)


if __name__ == "__main__":
    openrlhf.datasets.RewardDataset = TokenPairs  # the command imports it from there
    runpy.run_module("openrlhf.cli.train_dpo", run_name="__main__", alter_sys=True)
