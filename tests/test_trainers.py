"""Our trainers: the schedule, what a kill leaves, what is trained on."""

import importlib.util
import json
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from openrlhf_negdata import cpu
from openrlhf_negdata.errors import UserError

ON_CPU = pytest.mark.skipif(bool(shutil.which("nvidia-smi")), reason="the machine has CUDA")
ON_CUDA = pytest.mark.skipif(not shutil.which("nvidia-smi"), reason="the machine has no CUDA")
WITHOUT_WANDB = pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
TRAINERS = {
    "train_sft": ("response_ids",),
    "train_advantage_weighted": ("response_ids",),
    "train_step_dpo": ("chosen_ids", "rejected_ids"),
}
#: Eleven rows three times are eight updates of four, and one row left over: updates span epochs.
UPDATES = 8


def module(trainer):
    return f"openrlhf_negdata.cli.{trainer}"


def token_rows(trainer, count):
    """Rows of random ids of random lengths, the two sides of a pair unlike."""
    draw = random.Random(0)
    ids = [[[draw.randrange(3, 63) for _ in range(draw.randint(2, 9))] for _ in range(3)] for _ in range(count)]
    rows = [{"prompt_ids": prompt} | dict(zip(TRAINERS[trainer], sides, strict=False)) for prompt, *sides in ids]
    if trainer == "train_advantage_weighted":
        for row in rows:
            row |= {"step_ends": [1, len(row["response_ids"])], "weights": [draw.uniform(-0.5, 2), 1.0]}
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def flags(trainer, model, data, output, **more):
    """Three epochs of eleven rows are 8 updates of four, whatever the micro-batches."""
    chosen = {
        "model.model_name_or_path": model,
        "data.dataset": data,
        "data.max_len": 24,
        "train.batch_size": 4,
        "train.micro_batch_size": 2,
        "train.max_epochs": 3,
        "adam.lr": 1e-2,
        "ckpt.save_steps": 2,
        "ckpt.output_dir": output,
        "logger.wandb.run_name": "run",
    }
    if trainer == "train_step_dpo":
        del chosen["train.micro_batch_size"]
    return [word for key, value in (chosen | more).items() for word in (f"--{key}", str(value)) if word != "None"]


def names_in(folder):
    """What is in a folder, but for lock files: they are empty, and stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def logged(folder, name):
    """What the trainer logged under ``name``, by update."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "run"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(f"train/{name}")}


@pytest.fixture(scope="module", params=TRAINERS)
def history(request, train, tiny_model, tmp_path_factory):
    """A run left alone, and an equal one killed in its fifth update, then as it saves, then left to end."""
    folder, name = tmp_path_factory.mktemp(request.param), request.param
    last = TRAINERS[name][-1]
    good = token_rows(name, 11)
    bad = [good[0] | {"prompt_ids": []}, good[1] | {last: []}, good[2] | {last: [5] * 30}]
    if name == "train_advantage_weighted":
        bad[1] |= {"step_ends": [], "weights": []}
        bad[2] |= {"step_ends": [1, 30]}
    if last == "rejected_ids":
        bad.append(good[3] | {"rejected_ids": good[3]["chosen_ids"]})
    data = write(folder / "rows.jsonl", bad[:1] + good + bad[1:])
    runs = {}
    for run, die, output in (
        ("alone", None, "alone"),
        ("killed", ["update", 5], "killed"),
        ("killed as it saves", ["save", 0], "killed"),
        ("last", None, "killed"),
    ):
        logs = {"logger.tensorboard_dir": folder / "logs" / run}
        status, text = train(module(name), flags(name, tiny_model, data, folder / output, **logs), die)
        there = [name for name in names_in(folder) if "killed" in name]
        runs[run] = SimpleNamespace(status=status, text=text, there=there, logs=folder / "logs" / run)
    return SimpleNamespace(trainer=name, folder=folder, model=tiny_model, data=data, runs=runs)


def test_schedule_spans_exactly_the_updates_and_never_rises_again(history):
    run = history.runs["alone"]
    assert run.status == 0, run.text
    rates = logged(run.logs, "lr")
    assert list(rates) == list(range(1, UPDATES + 1))
    values = list(rates.values())
    assert values[0] == pytest.approx(1e-2)  # one update warms up
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(1e-3)  # --min_lr_ratio 0.1, reached at the last update and not before
    assert values[-2] > 1.1e-3


def test_rows_that_cannot_be_trained_on_are_dropped_and_counted(history):
    dropped = {"empty": 2, "over_long": 1} | ({"equal": 1} if history.trainer == "train_step_dpo" else {})
    line = next(line for line in history.runs["alone"].text.splitlines() if " kept, dropped: " in line)
    kept, counts = line.split(": ", 1)[1].split(" kept, dropped: ")
    assert kept in ("11 rows", "11 pairs")
    assert json.loads(counts.replace("'", '"')) == dropped


def test_killed_run_leaves_no_output_and_goes_on_from_its_checkpoint(history):
    killed, saving, last = (history.runs[run] for run in ("killed", "killed as it saves", "last"))
    assert killed.status == saving.status == -9
    assert last.status == 0, last.text
    assert "killed" not in [*killed.there, *saving.there]
    assert "after 16 samples" in saving.text  # four updates of four rows, in the middle of the second epoch
    assert f"after {UPDATES // 2 * 8} samples" in last.text
    assert list(logged(saving.logs, "lr")) == list(range(5, UPDATES + 1))
    assert last.there == ["killed"]  # neither checkpoints nor half an output beside it


def test_killed_run_reaches_the_weights_of_one_left_alone(history):
    """Up to one rounding to bf16: DeepSpeed's Adam for CPU (ops/csrc/includes/cpu_adam.h:66) multiplies up powers of
    beta as it goes and takes ``pow`` after a resume, which differ in their last bit. Other rows, or another
    learning rate, move weights by more than 1e-4."""
    import torch
    from safetensors.torch import load_file

    start = load_file(history.model / "model.safetensors")
    alone, killed = (load_file(history.folder / run / "model.safetensors") for run in ("alone", "killed"))
    torch.testing.assert_close(killed, alone, rtol=2**-7, atol=1e-6)
    assert all((alone[name] != start[name]).any() for name in start)


def test_every_update_has_one_row_of_metrics_beside_the_model_whatever_kills_there_were(history):
    alone, killed = (
        [json.loads(line) for line in (history.folder / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("alone", "killed")
    )
    for rows in (alone, killed):
        assert [row["update"] for row in rows] == list(range(1, UPDATES + 1))
        assert {"loss", "lr", "grad_norm", "tokens", "seconds", "tokens_per_second"} <= rows[0].keys()
    told = logged(history.runs["alone"].logs, "loss")
    assert [row["loss"] for row in alone] == pytest.approx(list(told.values()), rel=1e-6)
    for name in ("loss", "lr", "tokens"):
        assert [row[name] for row in killed] == pytest.approx([row[name] for row in alone], rel=0.02)
    # The run that was killed in its fifth update had told of that one already.
    assert "killed.metrics.jsonl" in history.runs["killed"].there
    assert "killed.metrics.jsonl" not in history.runs["last"].there


def test_kills_during_a_save_leave_the_last_good_checkpoint(history, train):
    """Killed twice with half of a second checkpoint written, which is the newer one and so would be kept in place of
    the first; then as the file that names the third is opened."""
    import torch
    from safetensors.torch import load_file

    output, texts = history.folder / "torn", []
    for die in (["checkpoint", 4], ["checkpoint", 4], ["latest", 6], None):
        words = flags(history.trainer, history.model, history.data, output, **{"ckpt.max_num": 2})
        status, text = train(module(history.trainer), words, die)
        texts.append(text)
        assert status == (-9 if die else 0), text
        if die:
            assert not output.exists()
            assert (history.folder / ".torn.ckpt" / f"global_step{die[1]}").is_dir()
    assert "going on from" not in texts[0]
    # Of two checkpoints a resumed run has one, two updates on; of the third only its name is missing.
    assert ["after 8 samples" in text for text in texts] == [False, True, True, False]
    assert "after 16 samples" in texts[3]
    alone, torn = (load_file(history.folder / run / "model.safetensors") for run in ("alone", "torn"))
    torch.testing.assert_close(torn, alone, rtol=2**-7, atol=1e-6)


def test_done_run_does_nothing_when_run_again_and_does_not_even_import_torch(history):
    again = flags(history.trainer, history.model, history.data, history.folder / "alone")
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[module(history.trainer), *again]!r}\n"
        "try:\n"
        f"    runpy.run_module({module(history.trainer)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print(end.code, sorted({'torch', 'transformers', 'deepspeed'} & {*sys.modules}))\n"
    )
    before = (history.folder / "alone" / "model.safetensors").stat()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{history.folder / 'alone'} is trained already", "0 []"]
    assert (history.folder / "alone" / "model.safetensors").stat() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"adam.lr": 2e-2}, "was trained with adam.lr = 0.01, not 0.02"),
        ({"ckpt.output_dir": "{data}"}, "{data} is in the way"),
        ({"ckpt.output_dir": "{folder}"}, "{folder} is in the way"),
        ({"data.dataset": "{folder}/none.jsonl"}, "no such file: {folder}/none.jsonl"),
        ({"data.dataset": "{folder}/rest.jsonl"}, "no row is left to train on (dropped: {{'empty': 1}}"),
        (
            {"data.dataset": "{folder}/text.jsonl"},
            "text.jsonl:1: malformed row: prompt_ids is not a list of token ids",
        ),
        (
            {"data.dataset": "{folder}/other.jsonl"},
            "prompt_ids has ids that are none of the model's 63: built for another model?",
        ),
        ({"train.batch_size": 64}, "11 {rows} are less than one update of --train.batch_size 64"),
        ({"ckpt.save_steps": 0}, "--ckpt.save_steps must be at least 1, or -1"),
        ({"ckpt.max_num": 1}, "--ckpt.max_num must be at least 2: a kill while the only checkpoint is replaced"),
        ({"eval.dataset": "{folder}/none.jsonl"}, "no such file: {folder}/none.jsonl"),
        ({"eval.steps": 0}, "--eval.steps must be at least 1, or -1 for once an epoch, not 0"),
        ({"ckpt.save_hf": None, "ckpt.save_steps": -1}, "--ckpt.save_hf saves with each checkpoint"),
        ({"ckpt.keep_best": None}, "--ckpt.keep_best needs --eval.dataset"),
        (
            {"data.dataset": "{folder}/true.jsonl"},
            "true.jsonl:2: malformed row: prompt_ids is not a list of token ids",
        ),
        ({"ds.ring_attn_size": 2}, "--ds.ring_attn_size must be 1"),
        ({"ds.tensor_parallel_size": 2}, "--ds.tensor_parallel_size must be 1"),
        pytest.param({"ds.param_dtype": "fp16"}, "--ds.param_dtype fp16 needs CUDA", marks=ON_CPU),
        pytest.param({"ds.param_dtype": "fp32"}, "--ds.param_dtype fp32 is for hosts without CUDA", marks=ON_CUDA),
        pytest.param({"ds.load_in_4bit": None}, "--ds.load_in_4bit needs CUDA", marks=ON_CPU),
        ({"ds.adam_offload": None, "ds.zero_stage": 0}, "--ds.adam_offload needs --ds.zero_stage 1 or more"),
        pytest.param(
            {"logger.wandb.key": "k"}, "--logger.wandb.key needs wandb: pip install wandb", marks=WITHOUT_WANDB
        ),
        (
            {"ckpt.path": "{folder}/new/checkpoints"},
            "--ckpt.path {folder}/new/checkpoints is inside --ckpt.output_dir",
        ),
        ({"ckpt.path": "{folder}"}, "{folder} is in the way: it holds something other than checkpoints"),
        ({"ckpt.path": "{data}"}, "--ckpt.path {data} is not a folder"),
    ],
)
def test_mistake_ends_with_status_2_and_one_line(history, train, change, said):
    folder, rows = history.folder, token_rows(history.trainer, 1)
    write(folder / "rest.jsonl", [rows[0] | {"prompt_ids": []}])
    write(folder / "text.jsonl", [rows[0] | {"prompt_ids": "one two"}])
    write(folder / "true.jsonl", [rows[0], rows[0] | {"prompt_ids": [3, True]}])
    write(folder / "other.jsonl", [rows[0] | {"prompt_ids": [3, 63]}])
    new = {"ckpt.output_dir": folder / ("alone" if "adam.lr" in change else "new")}
    kind = "pairs" if history.trainer == "train_step_dpo" else "rows"
    names = {"folder": folder, "data": history.data, "rows": kind}
    change = {key: value.format(**names) if isinstance(value, str) else value for key, value in change.items()}
    before = names_in(folder)
    status, text = train(
        module(history.trainer), flags(history.trainer, history.model, history.data, folder / "x", **(new | change))
    )
    assert status == 2, text
    errors = [line for line in text.splitlines() if line.startswith(f"{history.trainer}: error: ")]
    assert len(errors) == 1
    assert said.format(**names) in errors[0]
    assert text.splitlines()[-1] == errors[0]
    assert "Traceback" not in text
    assert names_in(folder) == before


@pytest.mark.parametrize("trainer", ["train_sft", "train_advantage_weighted"])
def test_a_batch_need_be_no_multiple_of_the_micro_batch(train, tiny_model, tmp_path, trainer):
    data, losses = write(tmp_path / "rows.jsonl", token_rows(trainer, 11)), []
    for micro in (2, 3):
        logs = tmp_path / f"logs of {micro}"
        more = {"train.batch_size": 3, "train.micro_batch_size": micro, "logger.tensorboard_dir": logs}
        status, text = train(module(trainer), flags(trainer, tiny_model, data, tmp_path / f"by {micro}", **more))
        assert status == 0, text
        losses.append(logged(logs, "loss"))
    assert list(losses[0]) == list(range(1, 12))  # 33 rows, three at a time
    assert losses[0] == pytest.approx(losses[1], rel=0.01, abs=0.01)


@pytest.fixture(scope="module")
def actor(tiny_model):
    """OpenRLHF's Actor in bf16, as our trainers make it but for DeepSpeed, and its tokenizer."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            patch.setenv(name, "0")  # so that what setup() sets is taken back
        cpu.setup()
    from openrlhf.models import Actor
    from openrlhf.utils import get_tokenizer

    model = Actor(str(tiny_model), attn_implementation="sdpa", param_dtype="bf16", packing_samples=False)
    return SimpleNamespace(model=model, tokenizer=get_tokenizer(str(tiny_model), model.model, "right"))


@pytest.fixture(scope="module")
def fp32_log_probabilities(tiny_model):
    """``(prompt, answer) -> log-probability of each token of the answer``: transformers alone, one row, no padding."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)

    def compute(prompt, answer):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0]
        steps = range(len(prompt), len(prompt) + len(answer))
        return [torch.log_softmax(logits[t - 1], -1)[(prompt + answer)[t]].item() for t in steps]

    return compute


@pytest.mark.parametrize("separate", [False, True])
def test_dpo_sees_the_log_probabilities_of_exactly_the_two_sides(actor, fp32_log_probabilities, separate):
    import torch

    from openrlhf_negdata.trainers.tokens import StepPairs
    from openrlhf_negdata.trainers.updates import PairUpdates, sides

    rows = token_rows("train_step_dpo", 6)
    rows[0]["chosen_ids"] = [7]  # a side of one token
    rows[1]["rejected_ids"][-1] = actor.tokenizer.pad_token_id  # an id that padding uses is a token like any other
    rows[2]["prompt_ids"] = [9]
    updates = PairUpdates(StepPairs(rows, 128), batch_size=6, epochs=1, seed=0, budget=60, separate=separate)
    seen = {}
    with torch.no_grad():
        for micro_batch in updates.share(next(updates.after(0))):
            sums, counts = sides(actor.model.model, micro_batch, "cpu", separate)
            numbers = [pair.number for row in micro_batch for pair in row]
            seen |= dict(zip(numbers, zip(sums.view(-1, 2), counts.view(-1, 2), strict=True), strict=True))
    for number, row in enumerate(rows):
        for value, count, side in zip(*seen[number], ("chosen_ids", "rejected_ids"), strict=True):
            expected = fp32_log_probabilities(row["prompt_ids"], row[side])
            assert count == len(expected)
            # Logits of about 1 in bf16 are off by up to 2^-8 each.
            assert value.item() == pytest.approx(sum(expected), abs=0.01 * len(expected))


def test_sft_loss_is_on_the_responses_tokens_alone(actor, fp32_log_probabilities):
    import torch

    from openrlhf_negdata.trainers.tokens import TokenSFTDataset

    rows = token_rows("train_sft", 5)
    rows[0]["response_ids"] = [7]
    dataset = TokenSFTDataset(rows, actor.tokenizer, max_length=128)
    ids, attention, mask = dataset.collate_fn([dataset[i] for i in range(len(rows))])
    with torch.no_grad():
        seen = actor.model(ids, attention_mask=attention, return_logprobs=True)
    # sft_trainer.py:155 drops the mask's last column, as the last position predicts nothing.
    for values, on, row in zip(seen, mask[:, :-1].bool(), rows, strict=True):
        expected = fp32_log_probabilities(row["prompt_ids"], row["response_ids"])
        assert values[on].tolist() == pytest.approx(expected, abs=0.02)


def test_dataset_drops_and_counts_what_cannot_be_trained_on_and_keeps_the_rest_as_it_is():
    from openrlhf_negdata.trainers.tokens import StepPairs, TokenSFTDataset

    pair = {"prompt_ids": [3, 4], "chosen_ids": [5, 6], "rejected_ids": [7, 8, 9]}
    data = StepPairs(
        [
            pair,
            pair | {"prompt_ids": []},
            pair | {"chosen_ids": []},
            pair | {"rejected_ids": []},
            pair | {"rejected_ids": [5, 6]},
            pair | {"rejected_ids": [5] * 4},
            pair | {"chosen_ids": [5] * 4},
        ],
        max_length=5,
    )
    assert dict(data.dropped) == {"empty": 3, "equal": 1, "over_long": 2}
    assert [one.sequences() for one in data] == [([3, 4, 5, 6], [3, 4, 7, 8, 9])]
    row = {"prompt_ids": [3, 4], "response_ids": [5, 6]}
    dataset = TokenSFTDataset(
        [row, row | {"prompt_ids": []}, row | {"response_ids": []}, row | {"response_ids": [5] * 3}], None, 4
    )
    assert dict(dataset.dropped) == {"empty": 2, "over_long": 1}
    assert [part.tolist() for part in dataset[0]] == [[[3, 4, 5, 6]], [[1, 1, 1, 1]], [[0.0, 1.0, 1.0, 0.0]]]
    for kind, tokenizer in ((StepPairs, ()), (TokenSFTDataset, (None,))):
        with pytest.raises(UserError, match="no row is left to train on"):
            kind([pair | row | {"prompt_ids": []}], *tokenizer, 5)


@pytest.mark.parametrize("kind", ["StepPairs", "TokenSFTDataset", "WeightedDataset"])
def test_a_set_takes_less_than_a_byte_of_memory_a_token(kind):
    """Lists of integers took 41: the ids are in a file that is mapped into memory."""
    import tracemalloc

    from openrlhf_negdata.trainers import tokens

    def rows():
        draw = random.Random(0)
        for _ in range(500):
            prompt, *sides = ([draw.randrange(1000, 30_000) for _ in range(400)] for _ in range(3))
            yield {
                "prompt_ids": prompt, "chosen_ids": sides[0], "rejected_ids": sides[1], "response_ids": sides[0],
                "step_ends": [200, 400], "weights": [0.5, 1.0],
            }  # fmt: skip

    tracemalloc.start()
    try:
        made = getattr(tokens, kind)(rows(), *(() if kind == "StepPairs" else (None,)), 2048)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size < 500 * 800
    assert len(made) == 500
    first = next(rows())
    if kind == "StepPairs":
        assert made[0].sequences() == (
            first["prompt_ids"] + first["chosen_ids"],
            first["prompt_ids"] + first["rejected_ids"],
        )
    else:
        assert made[0][0].tolist() == [first["prompt_ids"] + first["response_ids"]]


def test_a_token_weighs_what_its_step_does():
    """Three steps of 1, 2 and 1 tokens after a prompt of two; position t stands for the loss on token t + 1."""
    from openrlhf_negdata.trainers.tokens import WeightedDataset

    row = {"prompt_ids": [3, 4], "response_ids": [5, 6, 7, 8], "step_ends": [1, 3, 4], "weights": [0.5, -2, 3.0]}
    dataset = WeightedDataset([row | {"prompt_ids": []}, row], SimpleNamespace(pad_token_id=0), 6)
    assert dataset[0][3].tolist() == [[0, 0.5, -2, -2, 3, 0]]
    assert dataset[0][2].tolist() == [[0, 1, 1, 1, 1, 0]]
    short = {"prompt_ids": [3], "response_ids": [5], "step_ends": [1], "weights": [7.0]}
    dataset = WeightedDataset([row, short], SimpleNamespace(pad_token_id=0), 6)
    assert dataset.collate_fn([dataset[0], dataset[1]])[3].squeeze(1).tolist() == [
        [0, 0.5, -2, -2, 3, 0],
        [7, 0, 0, 0, 0, 0],
    ]
    assert dataset.token_weights().tolist() == [0.5, -2, -2, 3, 7]


def test_the_weighted_loss_by_hand(actor):
    """Three counted tokens of -log p = 1, 2 and 3 with weights 2, 1/2 and -1, and one that is not counted:
    loss (2 x 1 + 1/2 x 2 - 1 x 3) / 3 = 0, NLL (1 + 2 + 3) / 3 = 2, mean weight 1.5 / 3 = 0.5,
    effective (2 + 1/2 + 1)^2 / (3 x (4 + 1/4 + 1)) = 12.25 / 15.75 = 0.777778."""
    import torch
    from openrlhf.models.loss import aggregate_loss

    from openrlhf_negdata.trainers.rows import means_of, sums

    log_probs = torch.tensor([[-1.0, -2.0], [-3.0, -9.0]])
    counted, weights = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.5], [-1.0, 0.0]])
    assert aggregate_loss(-log_probs * weights, counted).item() == pytest.approx(0, abs=1e-6)
    means = means_of(sums(log_probs, counted, weights).tolist())
    assert means == pytest.approx({"loss": 0, "nll": 2, "mean_weight": 0.5, "effective": 0.777778}, abs=1e-6)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_weighted_loss_is_that_of_the_whole_update(train, tiny_model, tmp_path, fp32_log_probabilities, micro):
    """One update of four answers: - sum w log p / tokens, however many micro-batches it takes."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = token_rows("train_advantage_weighted", 4)
    data = write(tmp_path / "rows.jsonl", rows)
    more = {"train.micro_batch_size": micro, "train.max_epochs": 1, "logger.tensorboard_dir": tmp_path / "logs"}
    status, text = train(
        module("train_advantage_weighted"),
        flags("train_advantage_weighted", tiny_model, data, tmp_path / "out", **more),
    )
    assert status == 0, text
    events = EventAccumulator(str(tmp_path / "logs" / "run"))
    events.Reload()
    names = ("loss", "nll", "mean_weight", "effective")
    logged = {name: events.Scalars(f"train/{name}")[0].value for name in names}
    weighted = plain = weights = sizes = squares = tokens = 0
    for row in rows:
        steps = [row["weights"][0]] + [row["weights"][1]] * (len(row["response_ids"]) - 1)
        seen = fp32_log_probabilities(row["prompt_ids"], row["response_ids"])
        weighted -= sum(weight * value for weight, value in zip(steps, seen, strict=True))
        plain, weights, tokens = plain - sum(seen), weights + sum(steps), tokens + len(seen)
        sizes, squares = sizes + sum(map(abs, steps)), squares + sum(weight**2 for weight in steps)
    expected = {"loss": weighted / tokens, "nll": plain / tokens, "mean_weight": weights / tokens}
    expected["effective"] = sizes**2 / (tokens * squares)
    assert logged == pytest.approx(expected, abs=0.01)
    (histogram,) = events.Histograms("train/weights")
    assert (histogram.step, histogram.histogram_value.num) == (0, tokens)
    assert histogram.histogram_value.sum == pytest.approx(weights, rel=1e-5)
    assert "weights of tokens, quartiles: " in text
    assert abs(expected["loss"] - expected["nll"]) > 0.1


def test_sft_and_weights_of_one_are_the_stock_sft_trainer_on_rows_that_micro_batches_divide(
    train, tiny_model, tmp_path
):
    """OpenRLHF's unmodified SFTTrainer.fit, loader and sampler: 12 rows, two micro-batches an update."""
    from safetensors.torch import load_file

    rows = token_rows("train_sft", 12)
    plain = write(tmp_path / "plain.jsonl", rows)
    ones = [row | {"step_ends": [len(row["response_ids"])], "weights": [1.0]} for row in rows]
    weighted = write(tmp_path / "weighted.jsonl", ones)
    runs = {"stock_sft": plain, "train_sft": plain, "train_advantage_weighted": weighted}
    for trainer, data in runs.items():
        name = trainer if trainer == "stock_sft" else module(trainer)
        status, text = train(name, flags("train_sft", tiny_model, data, tmp_path / trainer))
        assert status == 0, text
    stock, *ours = (load_file(tmp_path / trainer / "model.safetensors") for trainer in runs)
    for made in ours:
        assert all((made[name] == stock[name]).all() for name in stock)


@pytest.mark.parametrize(
    ("trainer", "change", "said"),
    [
        ("train_sft", {}, "it has weights: train on it with openrlhf_negdata.cli.train_advantage_weighted"),
        ("train_advantage_weighted", {"weights": [1.0]}, "are not two lists of one length"),
        ("train_advantage_weighted", {"weights": [1.0, float("nan")]}, "weights are not all finite numbers"),
        ("train_advantage_weighted", {"step_ends": [1, 99]}, "step_ends [1, 99] do not rise to the"),
        ("train_advantage_weighted", {"step_ends": [0, 2]}, "do not rise to the"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(train, tiny_model, tmp_path, trainer, change, said):
    data = write(tmp_path / "rows.jsonl", [token_rows("train_advantage_weighted", 1)[0] | change])
    status, text = train(module(trainer), flags(trainer, tiny_model, data, tmp_path / "out"))
    assert status == 2
    assert f"rows.jsonl:1: malformed row: {said}" in text or said in text.splitlines()[-1]
