"""Training on pairs of token ids: step DPO's sets, its reference, its run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openrlhf.utils import get_tokenizer
from torch.utils.data import Subset

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.trainers import checkpoints, outputs, packing, processes
from openrlhf_negdata.trainers.model import load_actor, prepare
from openrlhf_negdata.trainers.reference import Reference, lock_of
from openrlhf_negdata.trainers.step_dpo import StepDPOTrainer
from openrlhf_negdata.trainers.tokens import StepPairs, read_rows
from openrlhf_negdata.trainers.updates import PairUpdates

FIELDS = ("prompt_ids", "chosen_ids", "rejected_ids")


def train(args: Any, strategy: Any) -> None:
    """Train on the pairs of ``--data.dataset`` and write the model."""
    start = args.model.model_name_or_path
    model = load_actor(args, strategy, start, for_training=True)
    tokenizer = get_tokenizer(start, model.model, "right", strategy)
    pairs = _pairs_of(args, strategy, model, args.data.dataset, args.data.max_samples)
    held_out = _pairs_of(args, strategy, model, args.eval.dataset, None) if args.eval.dataset else None
    updates = _updates_of(args, strategy, pairs)
    if not len(updates):
        raise UserError(f"{len(pairs)} pairs are less than one update of --train.batch_size {args.train.batch_size}")
    model, optimizer, scheduler = prepare(args, strategy, model, len(updates))
    # Before a checkpoint is loaded, and before the first update, the model is its own reference.
    reference = _reference(args, strategy, model.model, [pairs, held_out] if held_out else [pairs])
    consumed_samples = checkpoints.load(args, strategy, model)
    checkpoints.claim(args)
    trainer = StepDPOTrainer(
        updates,
        reference.of(pairs),
        (_updates_of(args, strategy, held_out), reference.of(held_out)) if held_out else None,
        model=model,
        strategy=strategy,
        tokenizer=tokenizer,
        optim=optimizer,
        scheduler=scheduler,
        max_norm=args.max_norm,
        beta=args.model.beta,
        max_epochs=args.train.max_epochs,
    )
    trainer.fit(args, consumed_samples)
    outputs.save(args, strategy, model, tokenizer)
    if not args.ref.log_probs and strategy.is_rank_0():
        reference.path.unlink(missing_ok=True)
        lock_of(reference.path).unlink(missing_ok=True)


def _pairs_of(args: Any, strategy: Any, model: Any, path: str, most: int | None) -> StepPairs:
    rows = itertools.islice(read_rows(path, FIELDS, model), most)
    pairs = StepPairs(rows, args.data.max_len, Path(args.ckpt.output_dir).parent)
    strategy.print(f"{path}: {len(pairs)} pairs kept, dropped: {dict(pairs.dropped) or 'none'}")
    return pairs


def _updates_of(args: Any, strategy: Any, pairs: Any) -> PairUpdates:
    how = args.train
    return PairUpdates(
        pairs, how.batch_size, how.max_epochs, how.seed, how.max_tokens_per_gpu, how.separate_sequences_enable,
        per_problem=how.max_pairs_per_problem, **processes.place(strategy),
    )  # fmt: skip


def _reference(args: Any, strategy: Any, policy: Any, sets: Sequence[StepPairs]) -> Reference:
    """The reference's log-probabilities of all pairs of ``sets``: those that its file lacks are computed. ``policy``
    is the reference unless another is named; each is checked to see what packing shows it."""
    separate = args.train.separate_sequences_enable
    output = Path(args.ckpt.output_dir)
    path = Path(args.ref.log_probs or output.with_name(f".{output.name}.ref.parquet"))
    revision = args.settings["ref.model_name_or_path"] or args.settings["model.model_name_or_path"]
    reference = Reference(path, revision, args.ds.param_dtype)

    def check(model: Any) -> None:
        if not separate:
            longest = max(some.longest for some in sets)
            packing.check(model, args.ds.attn_implementation, longest, args.train.max_tokens_per_gpu)

    check(policy)
    missing = [reference.missing(some) for some in sets]
    if not any(missing):
        return reference
    total = sum(map(len, sets))
    strategy.print(f"{total - sum(map(len, missing))} of {total} pairs have the reference's log-probabilities")
    if args.ref.model_name_or_path:
        policy = strategy.prepare(load_actor(args, strategy, args.ref.model_name_or_path, for_training=False)).model
        check(policy)
    for some, places in zip(sets, missing, strict=True):
        if places:
            lacking: Any = Subset(some, places)  # type: ignore[arg-type]  # it need only be indexed
            reference.add(policy, _updates_of(args, strategy, lacking), separate)
    return reference
