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

import itertools
import sys
from pathlib import Path

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.trainers import checkpoints, outputs, processes, setup

FIELDS = ("prompt_ids", "chosen_ids", "rejected_ids")


def train(args, strategy):
    from openrlhf.utils import get_tokenizer
    from torch.utils.data import Subset

    from openrlhf_negdata.datasets.tokens import StepPairs
    from openrlhf_negdata.trainers import packing
    from openrlhf_negdata.trainers.reference import Reference, lock_of
    from openrlhf_negdata.trainers.step_dpo import StepDPOTrainer
    from openrlhf_negdata.trainers.updates import PairUpdates

    # What OpenRLHF's trainer looks up, and step DPO has no use for.
    args.model.aux_loss_coef, args.ds.packing_samples = 0.0, False
    separate = args.train.separate_sequences_enable
    output = Path(args.ckpt.output_dir)
    start = args.model.model_name_or_path
    model = setup.load_actor(args, strategy, start, for_training=True)
    tokenizer = get_tokenizer(start, model.model, "right", strategy)

    def pairs_of(path, most):
        rows = itertools.islice(setup.read_rows(path, FIELDS, model), most)
        pairs = StepPairs(rows, args.data.max_len, output.parent)
        strategy.print(f"{path}: {len(pairs)} pairs kept, dropped: {dict(pairs.dropped) or 'none'}")
        return pairs

    def updates_of(pairs):
        return PairUpdates(
            pairs, args.train.batch_size, args.train.max_epochs, args.train.seed, args.train.max_tokens_per_gpu,
            separate, per_problem=args.train.max_pairs_per_problem, **processes.place(strategy),
        )  # fmt: skip

    pairs = pairs_of(args.data.dataset, args.data.max_samples)
    held_out = pairs_of(args.eval.dataset, None) if args.eval.dataset else None
    sets = [pairs, held_out] if held_out else [pairs]
    updates = updates_of(pairs)
    if not len(updates):
        raise UserError(f"{len(pairs)} pairs are less than one update of --train.batch_size {args.train.batch_size}")
    model, optimizer, scheduler = setup.prepare(args, strategy, model, len(updates))

    def check(policy):
        if not separate:
            longest = max(some.longest for some in sets)
            packing.check(policy, args.ds.attn_implementation, longest, args.train.max_tokens_per_gpu)

    check(model.model)
    path = Path(args.ref.log_probs or output.with_name(f".{output.name}.ref.parquet"))
    revision = args.settings["ref.model_name_or_path"] or args.settings["model.model_name_or_path"]
    reference = Reference(path, revision, args.ds.param_dtype)
    missing = [reference.missing(some) for some in sets]
    if any(missing):
        total = sum(map(len, sets))
        strategy.print(f"{total - sum(map(len, missing))} of {total} pairs have the reference's log-probabilities")
        # Before a checkpoint is loaded, and before the first update, the model is its own reference.
        policy = model.model
        if args.ref.model_name_or_path:
            other = setup.load_actor(args, strategy, args.ref.model_name_or_path, for_training=False)
            policy = strategy.prepare(other).model
            check(policy)
        for some, places in zip(sets, missing, strict=True):
            if places:
                reference.add(policy, updates_of(Subset(some, places)), separate)
        policy = other = None

    consumed_samples = checkpoints.load(args, strategy, model)
    checkpoints.claim(args)
    trainer = StepDPOTrainer(
        updates,
        reference.of(pairs),
        (updates_of(held_out), reference.of(held_out)) if held_out else None,
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
        path.unlink(missing_ok=True)
        lock_of(path).unlink(missing_ok=True)


if __name__ == "__main__":
    parser = setup.make_parser("train_step_dpo", __doc__, lr=1e-5, epochs=1)
    parser.add_argument(
        "--train.max_tokens_per_gpu",
        type=int,
        default=16192,
        help="tokens a process and forward pass, pads included: decides memory and speed, never the loss",
    )
    parser.add_argument(
        "--train.max_pairs_per_problem",
        type=int,
        default=8,
        help="a problem's pairs are taken in runs of at most so many, spread evenly over an epoch, so that an update "
        "holds many problems",
    )
    parser.add_argument(
        "--train.separate_sequences_enable",
        action="store_true",
        help="each side of a pair in a row of its own, as OpenRLHF does: for attention that takes no mask of ours "
        "(flash_attention_2, sliding windows)",
    )
    parser.add_argument("--ref.model_name_or_path", default=None, help="reference model (default: the starting model)")
    parser.add_argument(
        "--ref.offload", action="store_true", help="keep the reference model in host memory (with --ds.zero_stage 3)"
    )
    parser.add_argument(
        "--ref.log_probs",
        default=None,
        help="parquet file of the reference's log-probabilities, made where they are missing: name one to share it "
        "between runs (default: beside the output, removed with the checkpoints)",
    )
    parser.add_argument("--model.beta", type=float, default=0.1, help="strength of the pull to the reference")
    parser.add_argument(
        "--model.ipo_enable", action="store_true", help="IPO loss (Azar et al. 2023) in place of DPO's"
    )
    parser.add_argument(
        "--model.label_smoothing", type=float, default=0.0, help="conservative DPO: share of flipped labels"
    )
    parser.add_argument(
        "--model.positive_penalty",
        type=float,
        default=0.0,
        help="DPO-Positive: weight of the chosen side's fall below the reference",
    )
    parser.add_argument(
        "--model.nll_loss_coef", type=float, default=0.0, help="weight of the chosen side's mean-token NLL"
    )
    sys.exit(setup.run(parser, train, attention="flex_attention"))
