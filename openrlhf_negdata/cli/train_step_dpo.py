"""Direct preference optimization on pairs of token ids: the arms dpo and step-dpo.

    python -m openrlhf_negdata.cli.train_step_dpo --model.model_name_or_path SFT --data.dataset pairs.jsonl
    --ckpt.output_dir OUT

OpenRLHF's DPOTrainer does the work, on the ids that `negdata build` wrote: a step that does not end the answer has no
end-of-sequence token, nothing is cut, and pairs that cannot be trained on are dropped and counted. The reference is
the starting model unless --ref.model_name_or_path names another. The output folder appears whole or not at all; a run
that was killed goes on from its last checkpoint (--ckpt.save_steps) when run again, and one that is done does
nothing.
"""

import argparse
import sys

from openrlhf_negdata.trainers import setup


def train(args):
    from openrlhf.utils import get_strategy, get_tokenizer

    from openrlhf_negdata.datasets.tokens import StepPairDataset
    from openrlhf_negdata.trainers.step_dpo import StepDPOTrainer

    strategy = get_strategy(args)
    strategy.setup_distributed()
    start = args.model.model_name_or_path
    model = setup.load_actor(args, strategy, start, for_training=True)
    ref_model = setup.load_actor(args, strategy, args.ref.model_name_or_path or start, for_training=False)
    ref_model._offload = args.ref.offload
    tokenizer = get_tokenizer(start, model.model, "right", strategy)
    rows = setup.read_rows(args, ("prompt_ids", "chosen_ids", "rejected_ids"), model)
    loader = setup.make_loader(args, strategy, StepPairDataset(rows, tokenizer, args.data.max_len))
    config = setup.optimizer_config(args, strategy, loader)
    (model, optimizer, scheduler), ref_model = strategy.prepare((model, config), ref_model)
    consumed_samples = setup.load_checkpoint(args, strategy, model)
    setup.claim_checkpoints(args, strategy)
    trainer = StepDPOTrainer(
        model=model,
        ref_model=ref_model,
        tokenizer=tokenizer,
        strategy=strategy,
        optim=optimizer,
        train_dataloader=loader,
        eval_dataloader=None,
        scheduler=scheduler,
        max_norm=args.max_norm,
        beta=args.model.beta,
        max_epochs=args.train.max_epochs,
    )
    trainer.fit(args, consumed_samples)
    setup.save(args, strategy, model, tokenizer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="train_step_dpo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    setup.add_flags(parser)
    parser.add_argument("--ref.model_name_or_path", default=None, help="reference model (default: the starting model)")
    parser.add_argument("--ref.offload", action="store_true", help="keep the reference model in host memory")
    parser.add_argument("--model.beta", type=float, default=0.1, help="strength of the pull to the reference")
    parser.add_argument(
        "--model.ipo_enable", action="store_true", help="IPO loss (Azar et al. 2023) in place of DPO's"
    )
    parser.add_argument(
        "--model.label_smoothing", type=float, default=0.0, help="conservative DPO: share of flipped labels"
    )
    parser.add_argument(
        "--model.nll_loss_coef", type=float, default=0.0, help="weight of the chosen side's mean-token NLL"
    )
    sys.exit(setup.run(parser, train))
