"""The course of a training run is the method's alone: not its micro-batches', not its ZeRO stage's, not a kill's; and
step DPO's is that of OpenRLHF's own DPOTrainer."""

import json
import random

import pytest

from openrlhf_negdata import models
from openrlhf_negdata.errors import UserError

FIELDS = {
    "train_step_dpo": ("prompt_ids", "chosen_ids", "rejected_ids"),
    "train_advantage_weighted": ("prompt_ids", "response_ids"),
}


def rows_of(trainer, count=32, seed=1):
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        ids = [[draw.randrange(3, 63) for _ in range(draw.randint(2, 12))] for _ in FIELDS[trainer]]
        row = {"problem": number // 4} | dict(zip(FIELDS[trainer], ids, strict=True))
        if trainer == "train_advantage_weighted":
            ends = [1, len(ids[1])]
            row |= {"step_ends": ends, "weights": [round(draw.uniform(-0.3, 2.5), 3) for _ in ends]}
        rows.append(row)
    return rows


def events_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def scalars(folder):
    """What was logged of each update, by name."""
    events = events_of(folder)
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def by_update(folder, tag):
    """What was logged under one name, by update."""
    return {event.step: event.value for event in events_of(folder).Scalars(tag)}


class Runs:
    def __init__(self, train, model, folder, trainer):
        self.train, self.model, self.folder, self.trainer = train, model, folder, trainer
        self.data = folder / "rows.jsonl"
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(trainer)), encoding="utf-8")

    def words(self, name, more):
        chosen = {
            "model.model_name_or_path": self.model, "data.dataset": self.data, "train.batch_size": 16,
            "train.max_epochs": 4, "ds.zero_stage": 2, "adam.lr": 2e-3, "ckpt.output_dir": self.folder / name,
            "logger.tensorboard_dir": self.folder / "logs", "logger.wandb.run_name": name,
        }  # fmt: skip
        words = []
        for key, value in (chosen | more).items():
            words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
        return words

    def __call__(self, name, die=None, status=0, **more):
        """Run it, and give what was logged of each update; what it said if it was to fail."""
        ended, text = self.train(f"openrlhf_negdata.cli.{self.trainer}", self.words(name, more), die)
        assert ended == status, text[-3000:]
        return scalars(self.folder / "logs" / name) if status == 0 else text


@pytest.fixture(scope="module", params=FIELDS)
def runs(request, train, tiny_model, tmp_path_factory):
    made = Runs(train, tiny_model, tmp_path_factory.mktemp(request.param), request.param)
    made.plain = made("plain")
    return made


SIZES = {
    "train_step_dpo": [
        {"train.max_tokens_per_gpu": 1},
        {"train.max_tokens_per_gpu": 90},
        {"train.max_tokens_per_gpu": 90, "train.separate_sequences_enable": True},
    ],
    "train_advantage_weighted": [{"train.micro_batch_size": rows} for rows in (1, 2, 16)],
}


@pytest.mark.parametrize("size", range(3))
def test_micro_batches_change_nothing(runs, size):
    """Step DPO: one pair at a time, some, some unshared. Advantage-weighted: 1 row x 16 = 2 x 8 = 16 x 1."""
    same(runs(f"size {size}", **SIZES[runs.trainer][size]), runs.plain)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("zero 0", {"ds.zero_stage": 0}),
        ("zero 1", {"ds.zero_stage": 1}),
        ("zero 3", {"ds.zero_stage": 3}),
        ("offload", {"ds.adam_offload": True}),
        ("checkpointing", {"model.gradient_checkpointing_enable": True}),
    ],
)
def test_neither_do_zero_stages_offload_and_checkpointing(runs, name, change):
    same(runs(name, **change), runs.plain)


def same(seen, plain):
    """The same eight updates, which learn, to bf16's rounding."""
    assert len(plain["train/loss"]) == 8
    assert abs(plain["train/loss"][-1] - plain["train/loss"][0]) > 0.02
    for tag in {*plain} - {"train/tokens_per_second", "train/acc"}:  # acc jumps where a margin is about 0
        assert seen[tag] == pytest.approx(plain[tag], rel=0.01, abs=0.004), tag
    assert min(seen["train/tokens_per_second"]) > 0


def log_probs(model, row, side):
    """Of each token of one side, by transformers alone."""
    import torch

    ids, start = row["prompt_ids"] + row[side], len(row["prompt_ids"])
    with torch.no_grad():
        seen = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
    return [seen[t - 1, ids[t]].item() for t in range(start, len(ids))]


def margin(model, start, rows):
    def gain(row, side):
        return sum(log_probs(model, row, side)) - sum(log_probs(start, row, side))

    return sum(0.1 * (gain(row, "chosen_ids") - gain(row, "rejected_ids")) for row in rows) / len(rows)


def weighted_loss(model, _, rows):
    total = 0.0
    for row in rows:
        seen, (first, rest) = log_probs(model, row, "response_ids"), row["weights"]
        total -= first * seen[0] + rest * sum(seen[1:])
    return total / sum(len(row["response_ids"]) for row in rows)


def test_models_on_the_way_and_the_best_are_kept_and_do_what_was_logged(runs):
    """Over kills, one of them as a model is written. What a kept model gives for held-out rows, by transformers alone,
    is what its evaluation said."""
    import torch
    from transformers import AutoModelForCausalLM

    rows = rows_of(runs.trainer, 5, seed=2)
    held_out = runs.folder / "to choose by.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = {"eval.dataset": held_out, "eval.steps": 1, "ckpt.save_steps": 3, "ckpt.save_hf": True}
    flags |= {"ckpt.keep_best": True, "adam.lr": 2e-2}
    runs("kept", die=["save", 0], status=-9, **flags)
    runs("kept", die=["update", 5], status=-9, **flags)
    runs("kept", **flags)
    figure, better = ("eval/margin", max) if runs.trainer == "train_step_dpo" else ("eval/loss", min)
    seen = by_update(runs.folder / "logs" / "kept", figure)  # 4 and 5 twice, the last time last
    best = better(seen, key=seen.get)
    kept = runs.folder / "kept.models"
    assert sorted(folder.name for folder in kept.iterdir()) == [
        f"best_global_step{best}",
        "global_step3",
        "global_step6",
    ]
    start = AutoModelForCausalLM.from_pretrained(runs.model, dtype=torch.float32)
    for folder, step in ((f"best_global_step{best}", best), ("global_step3", 3)):
        models.check_model(str(kept / folder))
        model = AutoModelForCausalLM.from_pretrained(kept / folder, dtype=torch.float32)
        value = (margin if runs.trainer == "train_step_dpo" else weighted_loss)(model, start, rows)
        assert value == pytest.approx(seen[step], rel=0.02, abs=0.01)
    text = runs("kept", status=2, **flags | {"adam.lr": 1e-3})
    assert "was trained with adam.lr = 0.02, not 0.001" in text.splitlines()[-1]


def test_held_out_rows_are_evaluated_once_an_epoch_and_change_nothing(runs):
    held_out = runs.folder / "held out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows_of(runs.trainer, 7)), encoding="utf-8")
    seen = runs("evaluated", **{"eval.dataset": held_out})
    same({tag: values for tag, values in seen.items() if tag.startswith("train/")}, runs.plain)
    assert len(seen["eval/loss"]) == 4
    assert seen["eval/loss"][-1] < seen["eval/loss"][0]


@pytest.mark.parametrize("stage", [2, 3])
def test_a_run_that_ran_out_of_memory_goes_on_with_less_and_ends_on_the_same_weights(runs, stage):
    """Smaller micro-batches, checkpointing, the optimizer on the host and another attention decide no weights: neither
    a checkpoint nor a model that is done is refused for them."""
    import torch
    from safetensors.torch import load_file

    size = {
        "train_step_dpo": {"train.max_tokens_per_gpu": 90},
        "train_advantage_weighted": {"train.micro_batch_size": 2},
    }
    less = size[runs.trainer] | {"model.gradient_checkpointing_enable": True, "ds.adam_offload": True}
    if runs.trainer == "train_step_dpo":
        less["train.separate_sequences_enable"] = True
    less["ds.attn_implementation"] = "eager"
    flags, name = {"ckpt.save_steps": 2, "ds.zero_stage": stage}, f"less {stage}"
    runs(name, die=["update", 5], status=-9, **flags)
    seen = runs(name, **flags, **less)
    # TensorBoard's folder holds the four updates that the killed run logged, and those of the one that went on.
    assert len(seen["train/loss"]) == 8
    for tag in ("train/loss", "train/grad_norm", "train/lr"):
        assert seen[tag] == pytest.approx(runs.plain[tag], rel=0.01, abs=0.004), tag
    start, plain, resumed = (
        load_file(folder / "model.safetensors") for folder in (runs.model, runs.folder / "plain", runs.folder / name)
    )
    moved, off = (
        {key: (made[key] - of[key]).float() for key in start} for made, of in ((plain, start), (resumed, plain))
    )
    size_of = lambda parts: torch.cat([part.flatten() for part in parts.values()]).norm().item()  # noqa: E731
    assert size_of(off) < 0.1 * size_of(moved)
    ended, text = runs.train(f"openrlhf_negdata.cli.{runs.trainer}", runs.words(name, flags))
    assert ended == 0
    assert f"{runs.folder / name} is trained already" in text


def test_a_checkpoint_is_for_equal_settings(runs):
    runs("other", die=["update", 3], status=-9, **{"ckpt.save_steps": 1})
    text = runs("other", status=2, **{"ckpt.save_steps": 1, "adam.lr": 1e-3})
    assert "holds checkpoints made with adam.lr = 0.002, not 0.001: give another" in text.splitlines()[-1]


@pytest.mark.parametrize("stage", [2, 3])
def test_lora_trains_an_adapter_that_a_kill_does_not_change_and_that_merges(runs, stage):
    import torch
    from openrlhf.cli.lora_combiner import apply_lora
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    flags = {"ds.lora.rank": 4, "ds.zero_stage": stage, "ckpt.save_steps": 2, "adam.lr": 1e-2}
    alone = runs(f"lora {stage}", **flags)
    assert alone["train/loss"][-1] < alone["train/loss"][0] - 0.01
    runs(f"killed {stage}", die=["update", 5], status=-9, **flags)
    runs(f"killed {stage}", **flags)
    merged = runs.folder / f"merged {stage}"
    start = AutoModelForCausalLM.from_pretrained(runs.model)
    logits = {}
    for name in ("lora", "killed"):
        adapter = runs.folder / f"{name} {stage}"
        with pytest.raises(UserError, match="is a LoRA adapter: merge it with `python -m openrlhf.cli.lora_combiner"):
            models.check_model(str(adapter))
        base = AutoModelForCausalLM.from_pretrained(runs.model)
        logits[name] = PeftModel.from_pretrained(base, adapter)(torch.tensor([[5, 6, 7]])).logits
    torch.testing.assert_close(logits["killed"], logits["lora"], rtol=0.02, atol=0.02)
    apply_lora(str(runs.model), str(runs.folder / f"lora {stage}"), str(merged), is_rm=False, param_dtype="bf16")
    models.check_model(str(merged))
    seen = AutoModelForCausalLM.from_pretrained(merged)(torch.tensor([[5, 6, 7]])).logits
    torch.testing.assert_close(seen, logits["lora"], rtol=0.05, atol=0.05)
    assert (seen - start(torch.tensor([[5, 6, 7]])).logits).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["algorithm1", "shared_prefix"])
def test_the_course_is_that_of_the_stock_dpo_trainer_with_its_reference_model(kind, tmp_path):
    """OpenRLHF's unmodified DPOTrainer.fit, which asks its reference model at every update, and ours, which reads what
    it asked once: all pairs make up each of the six updates, so that the two shuffle alike."""
    import dpo_pairs
    import step_dpo_algorithm1
    import step_dpo_shared_prefix

    made = {"algorithm1": step_dpo_algorithm1, "shared_prefix": step_dpo_shared_prefix}[kind]
    flags = "--problems 6 --batch_size 12 --micro_batch_size 4 --epochs 6 --layers 2 --width 64"
    flags += " --vocabulary 64 --lr 2e-3"
    args = dpo_pairs.parser("").parse_args(flags.split())
    args.pairs, args.accuracy = 2, 0.5
    pairs = made.make_pairs(args, random.Random(0))[: args.batch_size]
    assert len(pairs) == args.batch_size
    dpo_pairs.prepare(tmp_path, args, pairs)
    for side in ("stock", "ours"):
        dpo_pairs.measure(side, tmp_path)
    stock, ours = scalars(tmp_path / "stock"), scalars(tmp_path / "ours")
    assert ours["train/loss"] == pytest.approx(stock["train/loss_mean"], rel=0.01)
    assert ours["train/loss"][-1] < 0.5
    assert ours["train/lr"] == pytest.approx(stock["train/lr"])
    assert ours["train/grad_norm"] == pytest.approx(stock["train/grad_norm"], rel=0.02)
