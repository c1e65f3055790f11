"""OpenRLHF's SFTTrainer, unmodified, on our rows: what train_sft is measured against."""

import sys

from openrlhf_negdata.trainers import command, flags, processes


def train(args, strategy):
    from openrlhf.trainer.sft_trainer import SFTTrainer
    from openrlhf.utils import get_tokenizer

    from openrlhf_negdata.trainers import outputs
    from openrlhf_negdata.trainers.model import load_actor, prepare
    from openrlhf_negdata.trainers.tokens import TokenSFTDataset, read_rows

    # The micro-batches that DeepSpeed counts.
    strategy.micro_train_batch_size, strategy.train_batch_size = args.train.micro_batch_size, args.train.batch_size
    strategy.accumulated_gradient = args.train.batch_size // args.train.micro_batch_size // processes.count()
    model = load_actor(args, strategy, args.model.model_name_or_path, for_training=True)
    tokenizer = get_tokenizer(args.model.model_name_or_path, model.model, "right", strategy)
    rows = read_rows(args.data.dataset, ("prompt_ids", "response_ids"), model)
    data = TokenSFTDataset(rows, tokenizer, args.data.max_len)
    loader = strategy.setup_dataloader(data, args.train.micro_batch_size, False, True, data.collate_fn)
    updates = len(loader) * args.train.max_epochs // strategy.accumulated_gradient
    model, optimizer, scheduler = prepare(args, strategy, model, updates)
    trainer = SFTTrainer(
        model, strategy, optimizer, loader, None, scheduler, max_norm=args.max_norm,
        batch_size=args.train.batch_size, max_epochs=args.train.max_epochs, tokenizer=tokenizer,
    )  # fmt: skip
    trainer.fit(args, 0, len(loader) // strategy.accumulated_gradient)
    outputs.save(args, strategy, model, tokenizer)


if __name__ == "__main__":
    parser = flags.make_parser("stock_sft", __doc__, lr=5e-6, epochs=2)
    flags.add_row_flags(parser)
    sys.exit(command.run(parser, train))
