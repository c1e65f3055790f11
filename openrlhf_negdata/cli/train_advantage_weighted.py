"""Advantage-weighted training on token ids: the arm advantage-weighted.

    python -m openrlhf_negdata.cli.train_advantage_weighted --model.model_name_or_path SFT
    --data.dataset weighted.jsonl --ckpt.output_dir OUT

Each token of a response is learned with the weight of its step, exp(A / beta) as `negdata build advantage-weighted`
wrote it; the loss is normalised by the tokens of the whole update, as OpenRLHF's SFT is. The output folder appears
whole or not at all; a run that was killed goes on from its last checkpoint (--ckpt.save_steps) when run again, and
one that is done does nothing.
"""

import sys

from openrlhf_negdata.trainers import checkpoints, setup


def train(args):
    from openrlhf.utils import get_strategy, get_tokenizer

    from openrlhf_negdata.datasets.tokens import WeightedDataset
    from openrlhf_negdata.trainers.advantage_weighted import AdvantageWeightedTrainer

    strategy = get_strategy(args)
    strategy.setup_distributed()
    model = setup.load_actor(args, strategy, args.model.model_name_or_path, for_training=True)
    tokenizer = get_tokenizer(args.model.model_name_or_path, model.model, "right", strategy)

    def loader_of(path, for_training):
        rows = setup.read_rows(path, ("prompt_ids", "response_ids"), model, weights=True)
        dataset = WeightedDataset(
            rows[: args.data.max_samples] if for_training else rows, tokenizer, args.data.max_len
        )
        return setup.make_loader(args, strategy, path, dataset, for_training)

    loader = loader_of(args.data.dataset, for_training=True)
    updates = len(loader) * args.train.max_epochs // strategy.accumulated_gradient
    model, optimizer, scheduler = setup.prepare(args, strategy, model, updates)
    consumed_samples = checkpoints.load(args, strategy, model)
    checkpoints.claim(args, strategy)
    trainer = AdvantageWeightedTrainer(
        model=model,
        strategy=strategy,
        optim=optimizer,
        train_dataloader=loader,
        eval_dataloader=loader_of(args.eval.dataset, for_training=False) if args.eval.dataset else None,
        scheduler=scheduler,
        max_norm=args.max_norm,
        batch_size=args.train.batch_size,
        max_epochs=args.train.max_epochs,
        tokenizer=tokenizer,
    )
    trainer.fit(args, consumed_samples)
    setup.save(args, strategy, model, tokenizer)


if __name__ == "__main__":
    parser = setup.make_parser("train_advantage_weighted", __doc__)
    setup.add_row_flags(parser)
    sys.exit(setup.run(parser, train))
