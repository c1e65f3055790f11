"""Step DPO: shared-prefix packing is exact, the loss is the one written down, and only memory and speed depend on how
an update is cut into micro-batches."""

import json
import math
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_negdata.errors import UserError

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def cpu_host():
    """OpenRLHF can be imported, as `negdata launch` makes sure on a host without CUDA."""
    from openrlhf_negdata import cpu

    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            patch.setenv(name, "0")  # so that what setup() sets is taken back
        cpu.setup()


FAMILIES = ("llama", "qwen2", "qwen3")
TRAIN = "openrlhf_negdata.cli.train_step_dpo"


def causal_lm(family, dtype=torch.float32):
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

    config = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[family](
        vocab_size=41, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def pairs_of(kind):
    """Pairs of one or two problems, by what is hard about them."""
    draw = random.Random(kind)
    some = lambda count: [draw.randrange(4) for _ in range(count)]  # noqa: E731 - four tokens: much is shared by chance
    question = some(6)
    if kind == "one pair":
        triples = [(question, some(5), some(7))]
    elif kind == "many of one problem":
        right = some(9)
        triples = [(question, right, right[:cut] + [9] + some(3)) for cut in range(8)]
        triples += [(question + right[:cut], right[cut:], [9, *some(2)]) for cut in range(1, 6)]
    elif kind == "shortest":
        triples = [([7], [1], [2]), ([7], [1], [1, 1]), ([7, 1], [1], [3])]
    elif kind == "longest":
        triples = [(some(1), some(250), [3]), (some(120), [2], some(130))]
    else:
        triples = [
            (some(draw.randint(1, 9)), some(draw.randint(1, 9)), [8, *some(draw.randint(0, 9))]) for _ in range(9)
        ]
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [{"problem": n // 5} | dict(zip(names, sides, strict=True)) for n, sides in enumerate(triples)]


KINDS = ("one pair", "many of one problem", "shortest", "longest", "many problems")


def updates_of(rows, batch_size=None, **more):
    from openrlhf_negdata.trainers.tokens import StepPairs
    from openrlhf_negdata.trainers.updates import PairUpdates

    pairs = StepPairs(rows, 1000)
    return PairUpdates(pairs, **{"batch_size": batch_size or len(pairs), "epochs": 1, "seed": 0, "budget": 64} | more)


def upstream(model, rows, beta=0.1):
    """The sides' log-probabilities and the loss, by an unmodified DPOTrainer on padded sequences."""
    from openrlhf.models import Actor
    from openrlhf.models.loss import DPOLoss
    from openrlhf.trainer.dpo_trainer import DPOTrainer

    actor = Actor(model)
    actor.packing_samples = False
    host = DPOTrainer.__new__(DPOTrainer)
    host.tokenizer, host.strategy = SimpleNamespace(pad_token_id=0), SimpleNamespace(ring_attn_group=None)

    def padded(side):
        ids = [torch.tensor(row["prompt_ids"] + row[side]) for row in rows]
        masks = [torch.ones_like(one) for one in ids]
        return [torch.nn.utils.rnn.pad_sequence(some, batch_first=True) for some in (ids, masks)]

    lengths = [len(row["prompt_ids"]) for row in rows]
    chosen, rejected, _, _ = host.concatenated_forward(actor, *padded("chosen_ids"), *padded("rejected_ids"), lengths)
    reference = torch.zeros_like(chosen)
    return chosen, rejected, DPOLoss(beta)(chosen, rejected, reference, reference)[0]


def ours(model, rows, separate, budget=64, beta=0.1):
    """The same by us, micro-batch by micro-batch, the gradients added up in ``model``."""
    from openrlhf_negdata.trainers.losses import DPOLoss
    from openrlhf_negdata.trainers.updates import sides

    updates = updates_of(rows, separate=separate, budget=budget)
    micro_batches = updates.share(next(updates.after(0)))
    found, total = {}, 0.0
    for micro_batch in micro_batches:
        sums, _ = sides(model, micro_batch, "cpu", separate)
        chosen, rejected = sums.view(-1, 2).unbind(1)
        loss = DPOLoss(beta)(chosen, rejected).sum() / len(rows)
        loss.backward()
        total += loss.item()
        numbers = [pair.number for row in micro_batch for pair in row]
        found |= dict(zip(numbers, zip(chosen.tolist(), rejected.tolist(), strict=True), strict=True))
    return [found[number] for number in range(len(rows))], total


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_loss_and_gradients_are_those_of_the_unmodified_dpo_trainer(
    cpu_host, family, kind, separate
):
    model, rows = causal_lm(family), pairs_of(kind)
    chosen, rejected, loss = upstream(model, rows)
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    found, total = ours(model, rows, separate)
    for (mine_chosen, mine_rejected), theirs_chosen, theirs_rejected in zip(found, chosen, rejected, strict=True):
        assert mine_chosen == pytest.approx(theirs_chosen.item(), rel=1e-5, abs=1e-5)
        assert mine_rejected == pytest.approx(theirs_rejected.item(), rel=1e-5, abs=1e-5)
    assert total == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        largest = gradients[name].abs().max().item()
        assert (parameter.grad - gradients[name]).abs().max().item() <= 1e-5 * max(largest, 1), name


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bf16_they_are_as_near_to_fp32_as_the_dpo_trainer_is(cpu_host, family):
    """Tolerance in bf16: an error of 0.02 a token, and of half of a percent in the loss."""
    rows = pairs_of("many of one problem")
    exact, _, loss = upstream(causal_lm(family), rows)
    found, total = ours(causal_lm(family, torch.bfloat16), rows, False)
    for (mine, _), right, row in zip(found, exact.tolist(), rows, strict=True):
        assert mine == pytest.approx(right, abs=0.02 * len(row["chosen_ids"]))
    assert total == pytest.approx(loss.item(), rel=5e-3)


def test_flex_attention_sees_what_sdpa_sees():
    """FlexAttention trains on CUDA alone; that its mask is the same is seen on CPU, without gradients. Nothing is
    compiled: inductor's C++ cannot be built where the path of the interpreter holds a space."""
    from openrlhf_negdata.trainers.updates import sides

    rows, seen = pairs_of("many of one problem"), {}
    updates = updates_of(rows, budget=10_000)
    micro_batches = updates.share(next(updates.after(0)))
    for attention in ("sdpa", "flex_attention"):
        model = causal_lm("llama")
        model.set_attn_implementation(attention)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            seen[attention] = sides(model, micro_batches[0], "cpu")[0]
    torch.testing.assert_close(seen["sdpa"], seen["flex_attention"], rtol=1e-4, atol=1e-4)


SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(SEQUENCES)
def test_a_trie_holds_every_distinct_prefix_once_and_sees_its_own_alone(sequences):
    from openrlhf_negdata.trainers.packing import Trie

    trie = Trie.of(sequences)
    prefixes = {tuple(sequence[: n + 1]) for sequence in sequences for n in range(len(sequence))}
    assert len(trie.ids) == len(prefixes)
    spelled = {}
    for sequence, path in zip(sequences, trie.paths, strict=True):
        assert [trie.ids[node] for node in path] == sequence
        assert [trie.depths[node] for node in path] == list(range(len(path)))
        spelled |= {node: tuple(sequence[: n + 1]) for n, node in enumerate(path)}
    for i in range(len(trie.ids)):
        seen = [j for j in range(len(trie.ids)) if j <= i < trie.ends[j]]
        assert [spelled[j] for j in seen] == [spelled[i][: n + 1] for n in range(len(spelled[i]))]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 100), st.booleans())
def test_micro_batches_hold_each_trie_once_within_the_budget(sizes, budget, separate):
    from openrlhf_negdata.trainers.packing import micro_batches

    made = micro_batches(sizes, budget, separate)
    assert sorted(trie for rows in made for row in rows for trie in row) == list(range(len(sizes)))
    for rows in made:
        length = max(sum(sizes[trie] for trie in row) for row in rows)
        assert length * len(rows) <= budget or [len(row) for row in rows] == [1]
        assert not separate or all(len(row) == 1 for row in rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(1, 9), st.integers(1, 3), st.integers(1, 4), st.integers(4, 60), st.booleans())
def test_every_pair_is_in_as_many_updates_as_there_are_epochs_on_one_process(
    count, batch, epochs, ranks, budget, separate
):
    draw = random.Random(count)
    rows = [
        {
            "problem": draw.randrange(5),
            "prompt_ids": [1, 2],
            "chosen_ids": [3] * draw.randint(1, 9),
            "rejected_ids": [number],
        }
        for number in range(4, 4 + count)
    ]
    more = {"batch_size": batch, "epochs": epochs, "budget": budget, "separate": separate, "ranks": ranks}
    more["per_problem"] = draw.randint(1, 6)
    updates = [updates_of(rows, rank=rank, **more) for rank in range(ranks)]
    by_rank = [[one.share(items) for items in one.after(0)] for one in updates]
    made = count * epochs // batch
    assert [len(some) for some in by_rank] == [made] * ranks
    seen = []
    for number in range(made):
        assert len({len(some[number]) for some in by_rank}) == 1  # as many micro-batches in each process
        inside = [pair for some in by_rank for rows in some[number] for row in rows for pair in row]
        assert all(pair.weight == 0 for pair in inside if pair.filler)
        real = sorted(pair.number for pair in inside if not pair.filler)
        assert len(real) == batch
        seen.append(real)
    times = [sum(real.count(number) for real in seen) for number in range(count)]
    assert max(times) <= epochs
    assert sum(times) == made * batch
    done = made // 2
    assert [updates[0].share(items) for items in updates[0].after(done)] == by_rank[0][done:]
    parts = [one.share(items) for one in updates for items in one.once()]
    inside = [pair for part in parts for micro_batch in part for row in micro_batch for pair in row]
    once = sorted(pair.number for pair in inside if not pair.filler)
    assert once == list(range(count))


def loss(chosen, rejected, **more):
    from openrlhf_negdata.trainers.losses import DPOLoss

    return DPOLoss(**{"beta": 0.5} | more)(torch.tensor([chosen]), torch.tensor([rejected])).item()


def test_losses_by_hand():
    """beta = 0.5, log-ratios to the reference of 1 (chosen) and -1 (rejected): margin 2, beta m = 1.

    sigmoid:         -log(1 / (1 + e^-1)) = log(1.367879) = 0.313262
    smoothed by 0.1: 0.9 x 0.313262 + 0.1 x log(1 + e) = 0.281936 + 0.1 x 1.313262 = 0.413262
    IPO:             (2 - 1 / (2 x 0.5))^2 = 1
    DPO-Positive:    the chosen side rose, so there is no penalty: 0.313262. With log-ratios of -1 and -3 it fell by 1;
                     with a penalty of 2 the margin is 2 - 2 x 1 = 0: log 2 = 0.693147
    """
    assert loss(1.0, -1.0) == pytest.approx(0.313262, abs=1e-6)
    assert loss(1.0, -1.0, label_smoothing=0.1) == pytest.approx(0.413262, abs=1e-6)
    assert loss(1.0, -1.0, ipo=True) == pytest.approx(1.0)
    assert loss(1.0, -1.0, positive_penalty=2.0) == pytest.approx(0.313262, abs=1e-6)
    assert loss(-1.0, -3.0, positive_penalty=2.0) == pytest.approx(math.log(2))


def test_the_loss_of_a_pair_with_its_nll_and_weight_by_hand(cpu_host, monkeypatch):
    """Log-probabilities of -4 (chosen, 4 tokens) and -6 (rejected, 3 tokens) against -5 and -5 of the reference: log-
    ratios of 1 and -1, so with beta = 0.5 0.313262 as above. NLL a token: 4 / 4 = 1. With a coefficient of 0.1 and a
    weight of 3: 3 x (0.313262 + 0.1 x 1) = 1.239786; in an update of two pairs on one process, half of that: 0.619893.

    Logged: loss 3 x 0.313262, rewards 0.5 x (1, -1), margin 1, accuracy 1, and kl -(1 - 1) / 7 = 0.
    """
    from openrlhf_negdata.trainers import step_dpo
    from openrlhf_negdata.trainers.tokens import Pair

    monkeypatch.setattr(step_dpo, "sides", lambda *_: (torch.tensor([-4.0, -6.0]), torch.tensor([4, 3])))
    trainer = step_dpo.StepDPOTrainer.__new__(step_dpo.StepDPOTrainer)
    trainer.model = torch.nn.Linear(1, 1)
    trainer.model.model, trainer.separate, trainer.beta = None, False, 0.5
    trainer.updates = SimpleNamespace(ranks=1)
    trainer.loss_fn = step_dpo.DPOLoss(0.5)
    trainer.args = SimpleNamespace(model=SimpleNamespace(nll_loss_coef=0.1))
    value, logged = trainer.step_loss([[Pair(0, "p", [1], [2], [3], weight=3.0)]], [(-5.0, -5.0)], total=2)
    assert value.item() == pytest.approx(0.619893, abs=1e-6)
    assert trainer.means(logged.tolist()) == pytest.approx(
        {"loss": 3 * 0.313262, "acc": 1.0, "chosen_reward": 0.5, "reject_reward": -0.5, "margin": 1.0}
        | {"chosen_logp": -4.0, "reject_logp": -6.0, "kl": 0.0, "nll": 1.0},
        abs=1e-6,
    )


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.2}, {"ipo": True}])
def test_losses_are_those_of_openrlhf(cpu_host, settings):
    from openrlhf.models.loss import DPOLoss as Theirs

    from openrlhf_negdata.trainers.losses import DPOLoss

    torch.manual_seed(1)
    chosen, rejected, ref_chosen, ref_rejected = torch.randn(4, 32) * 5
    theirs = Theirs(0.3, settings.get("label_smoothing", 0.0), settings.get("ipo", False))
    expected = theirs(chosen, rejected, ref_chosen, ref_rejected)[0]
    torch.testing.assert_close(DPOLoss(0.3, **settings)(chosen - ref_chosen, rejected - ref_rejected).mean(), expected)


# Whole runs.


def many_rows():
    draw = random.Random(5)
    rows = []
    for problem in range(8):
        question = [draw.randrange(3, 63) for _ in range(draw.randint(2, 6))]
        for _ in range(draw.randint(1, 5)):
            steps = [[draw.randrange(3, 63) for _ in range(draw.randint(1, 7))] for _ in range(3)]
            sides = {"chosen_ids": steps[0] + steps[1], "rejected_ids": steps[0] + steps[2]}
            rows.append({"problem": problem, "prompt_ids": question} | sides)
    return rows


@pytest.fixture(scope="module")
def run(train, tiny_model, tmp_path_factory):
    """``run(**flags) -> (what was logged of each update, by name; folder)``."""
    folder = tmp_path_factory.mktemp("step_dpo")
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in many_rows()), encoding="utf-8")

    def run(name, **more):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        chosen = {
            "model.model_name_or_path": tiny_model, "data.dataset": data, "train.batch_size": 8, "train.max_epochs": 2,
            "ds.zero_stage": 2, "adam.lr": 2e-3, "ckpt.output_dir": folder / name,
            "logger.tensorboard_dir": folder / "logs", "logger.wandb.run_name": name,
        }  # fmt: skip
        words = []
        for key, value in (chosen | more).items():
            words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
        status, text = train(TRAIN, words)
        assert status == 0, text[-3000:]
        events = EventAccumulator(str(folder / "logs" / name))
        events.Reload()
        names = events.Tags()["scalars"]
        return {tag: [event.value for event in events.Scalars(tag)] for tag in names}

    run.folder, run.data, run.model = folder, data, tiny_model
    return run


@pytest.fixture(scope="module")
def plain(run):
    return run("plain")


def test_the_reference_is_read_where_it_is_known_and_a_foreign_file_is_refused(run, plain, train, tiny_model):
    import pyarrow.parquet as pq

    path = run.folder / "shared.parquet"
    first = run("first", **{"ref.log_probs": path})
    written = path.stat().st_mtime_ns
    assert first.keys() == plain.keys()
    assert all(first[tag] == plain[tag] for tag in {*plain} - {"train/tokens_per_second"})
    assert pq.read_table(path).num_rows == len(many_rows())
    assert run("second", **{"ref.log_probs": path, "adam.lr": 4e-3})["train/loss"][0] == plain["train/loss"][0]
    assert path.stat().st_mtime_ns == written  # nothing was computed
    assert not list(run.folder.glob("*.ref.parquet")) + list(run.folder.glob(".*.ref.parquet"))
    other = {"model.model_name_or_path": tiny_model, "data.dataset": run.data, "train.batch_size": 8}
    other |= {"ckpt.output_dir": run.folder / "z", "ref.log_probs": run.data}
    status, text = train(TRAIN, [word for key, value in other.items() for word in (f"--{key}", str(value))])
    assert status == 2
    assert "pairs.jsonl is no file of this command" in text.splitlines()[-1]


def test_the_flag_decides_the_runs_that_a_problem_is_taken_in_and_none_is_refused(run, plain, train):
    """No problem of these has more than 5 pairs: runs of at most 5 change nothing, runs of 2 the first update."""
    same, spread = (run(f"runs of {most}", **{"train.max_pairs_per_problem": most}) for most in (5, 2))
    assert same["train/chosen_logp"] == plain["train/chosen_logp"]
    assert spread["train/chosen_logp"][0] != plain["train/chosen_logp"][0]
    words = [
        "--model.model_name_or_path",
        run.model,
        "--data.dataset",
        run.data,
        "--ckpt.output_dir",
        run.folder / "0",
    ]
    status, text = train(TRAIN, [*words, "--train.max_pairs_per_problem", 0])
    assert status == 2
    assert "--train.max_pairs_per_problem must be at least 1, not 0" in text.splitlines()[-1]


def test_held_out_pairs_are_evaluated_against_their_own_reference(run, plain):
    seen = run("evaluated", **{"eval.dataset": run.data, "eval.steps": 1, "train.batch_size": 17})
    assert len(seen["eval/loss"]) == len(seen["train/loss"]) == 4
    assert seen["eval/loss"][-1] < seen["eval/loss"][0] < 0.6932
    assert seen["eval/acc"][-1] > seen["eval/acc"][0]
    assert seen["eval/chosen_logp"][0] == pytest.approx(plain["train/chosen_logp"][0], rel=0.5)


def test_a_held_out_set_smaller_than_an_update_is_evaluated_and_so_is_the_last_model(run):
    """Three held-out pairs, twice, are no update of 17; and 4 updates are no multiple of 3."""
    held_out = run.folder / "three.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in many_rows()[:3]), encoding="utf-8")
    seen = run("few held out", **{"eval.dataset": held_out, "eval.steps": 3, "train.batch_size": 17})
    assert len(seen["train/loss"]) == 4
    assert len(seen["eval/loss"]) == 2


def test_another_reference_gives_the_log_probabilities_of_that_model(run, plain):
    """Against the model that `plain` trained, the untrained one starts with the margin of its fall."""
    seen = run("other", **{"ref.model_name_or_path": run.folder / "plain"})
    assert seen["train/loss"][0] > 0.75 > plain["train/loss"][0]
    assert seen["train/chosen_logp"][0] == plain["train/chosen_logp"][0]


def test_a_reference_that_is_kept_in_host_memory_is_the_same_reference(run, plain):
    """At ZeRO stage 3, where DeepSpeed does it."""
    flags = {"ref.model_name_or_path": run.folder / "plain", "ds.zero_stage": 3}
    seen = {name: run(name, **flags | more) for name, more in (("here", {}), ("offloaded", {"ref.offload": True}))}
    assert seen["offloaded"]["train/loss"] == pytest.approx(seen["here"]["train/loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ref.offload"], "--ref.offload needs --ref.model_name_or_path: else no second model is loaded"),
        (["--ref.offload", "--ref.model_name_or_path", "{model}"], "--ref.offload needs --ds.zero_stage 3"),
    ],
)
def test_an_offload_that_would_do_nothing_is_refused(run, train, flags, said):
    words = [
        "--model.model_name_or_path",
        run.model,
        "--data.dataset",
        run.data,
        "--ckpt.output_dir",
        run.folder / "o",
    ]
    status, text = train(TRAIN, [*words, *(word.format(model=run.model) for word in flags)])
    assert status == 2
    assert said in text.splitlines()[-1]


@pytest.mark.parametrize("separate", [False, True])
def test_a_reference_of_its_own_is_measured_too(run, train, separate):
    """Its attention may have a window where the policy's has none."""
    from transformers import AutoTokenizer

    other = run.folder / "windowed"
    model = family_model("mistral", **SMALL_WINDOW | {"vocab_size": 64})
    model.save_pretrained(other)
    AutoTokenizer.from_pretrained(run.model).save_pretrained(other)
    words = ["--model.model_name_or_path", run.model, "--data.dataset", run.data, "--ref.model_name_or_path", other]
    words += ["--ckpt.output_dir", run.folder / f"window {separate}", "--train.batch_size", 8]
    status, text = train(TRAIN, words + ["--train.separate_sequences_enable"] * separate)
    assert status == (0 if separate else 2), text[-2000:]
    assert separate or "not exact for this model" in text.splitlines()[-1]


def test_pairs_weigh_what_their_row_says(run, plain):
    data = run.folder / "weighted.jsonl"
    rows = [row | {"weight": 2.0} for row in many_rows()]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    seen = run("weighted", **{"data.dataset": data})
    assert seen["train/loss"][0] == pytest.approx(2 * plain["train/loss"][0], rel=1e-6)
    assert seen["train/grad_norm"][0] == pytest.approx(2 * plain["train/grad_norm"][0], rel=1e-3)


def family_model(kind, **more):
    """A tiny random model of transformers' ``kind``, whose attention is sharp enough for what it sees to matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {
        "vocab_size": 41, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **small | more)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32).eval()


EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("kind", "more"),
    [("mixtral", {"num_local_experts": 4}), ("qwen3_moe", EXPERTS | {"head_dim": 16}), ("olmoe", EXPERTS)],
)
def test_moe_families_give_packed_what_they_give_apart_though_openrlhf_asks_for_router_logits(cpu_host, kind, more):
    model, rows = family_model(kind, output_router_logits=True, **more), pairs_of("many of one problem")
    seen = {}
    for separate in (False, True):
        model.zero_grad()
        found, loss = ours(model, rows, separate)
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        seen[separate] = torch.tensor(found), loss, grads
    torch.testing.assert_close(seen[False][0], seen[True][0], rtol=1e-4, atol=1e-4)
    assert seen[False][1] == pytest.approx(seen[True][1], rel=1e-4)
    torch.testing.assert_close(seen[False][2], seen[True][2], rtol=1e-3, atol=1e-3)


SMALL_WINDOW = {"sliding_window": 4, "head_dim": 16}
MLA = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
MLA |= {"num_key_value_heads": 4, "n_routed_experts": 4, "first_k_dense_replace": 2, "n_group": 1, "topk_group": 1}


@pytest.mark.parametrize(
    ("kind", "more", "exact"),
    [
        ("llama", {}, True), ("qwen2", {}, True), ("qwen3", {"head_dim": 16}, True), ("olmo2", {}, True),
        ("mistral", {"sliding_window": None}, True), ("mistral", SMALL_WINDOW, False),
        ("mixtral", SMALL_WINDOW | {"num_local_experts": 4}, False), ("phi3", {"sliding_window": 4}, False),
        ("starcoder2", {"sliding_window": 4}, False), ("gemma2", SMALL_WINDOW, False),
        ("gemma3_text", SMALL_WINDOW, False), ("falcon", {"alibi": True}, False), ("falcon", {"alibi": False}, True),
        ("gpt_neox", {}, True), ("gpt2", {"n_embd": 64, "n_head": 4, "n_layer": 2}, True), ("deepseek_v3", MLA, True),
    ],
)  # fmt: skip
def test_a_model_that_is_not_exact_under_our_mask_is_refused_by_measurement(kind, more, exact):
    from openrlhf_negdata.trainers import packing

    for dtype in (torch.float32, torch.bfloat16):
        model = family_model(kind, **more).to(dtype)
        if exact:
            packing.check(model, "sdpa", 200, 1000)
        else:
            with pytest.raises(UserError, match="not exact for this model.*--train.separate_sequences_enable"):
                packing.check(model, "sdpa", 200, 1000)


def test_a_window_that_no_sequence_reaches_is_no_reason_to_refuse():
    from openrlhf_negdata.trainers import packing

    packing.check(family_model("mistral", sliding_window=64, head_dim=16), "sdpa", 60, 1000)


def test_attention_that_takes_no_mask_is_refused():
    from openrlhf_negdata.trainers import packing

    with pytest.raises(UserError, match="flash_attention_2 takes no mask"):
        packing.check(causal_lm("qwen2"), "flash_attention_2", 10, 10)


TWO_PROCESSES = """
import os, sys
import torch.distributed as dist
import torch.multiprocessing as mp
from pathlib import Path
from openrlhf_negdata import cpu

def one(rank, folder, moment):
    cpu.setup()
    from openrlhf_negdata.trainers.reference import Reference, _read
    dist.init_process_group("gloo", init_method=f"file://{folder}/met", rank=rank, world_size=2)
    path = Path(folder) / f"disk{rank}" / "ref.parquet"  # each process sees another disk
    if moment == "read":
        print(rank, sorted(Reference(path, "a", "bf16").known.items()), flush=True)
        return
    reference = Reference(path, "a", "bf16")
    if rank == 0:  # the disk that is written to is gone: a file is where the folder was
        os.rmdir(path.parent)
        path.parent.write_text("")
    try:
        reference._share({f"of {rank}": (1.0, 2.0)})
    except OSError as error:
        print(rank, type(error).__name__, getattr(error, "told"), flush=True)

if __name__ == "__main__":
    mp.spawn(one, (sys.argv[1], sys.argv[2]), 2)
"""


def two_processes(folder, moment):
    script = folder / "two.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    done = subprocess.run([sys.executable, script, folder, moment], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return sorted(line for line in done.stdout.splitlines() if line[:2] in ("0 ", "1 "))


def test_rank_0_alone_reads_the_references_file_and_all_know_what_is_in_it(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from openrlhf_negdata.trainers.reference import SCHEMA

    for rank in range(2):
        (tmp_path / f"disk{rank}").mkdir()
        row = {"key": f"of disk {rank}", "chosen": -1.0, "rejected": -2.0}
        pq.write_table(pa.Table.from_pylist([row], SCHEMA), tmp_path / f"disk{rank}" / "ref.parquet")
    assert two_processes(tmp_path, "read") == [f"{rank} [('of disk 0', (-1.0, -2.0))]" for rank in range(2)]


def test_what_rank_0_cannot_write_ends_all_processes_and_it_alone_says_so(tmp_path):
    (tmp_path / "disk0").mkdir()
    seen = two_processes(tmp_path, "write")
    assert [line.split()[0] for line in seen] == ["0", "1"]
    assert len({line.split()[1] for line in seen}) == 1
    assert [line.split()[2] for line in seen] == ["False", "True"]


def test_a_pass_of_the_reference_that_is_killed_goes_on_from_what_it_wrote(run, train):
    """1,100 pairs, written after 1,024 of them; killed before the next update of pairs is computed."""
    draw = random.Random(3)
    data, some = run.folder / "long.jsonl", lambda: [draw.randrange(3, 63) for _ in range(3)]
    rows = [{"prompt_ids": some(), "chosen_ids": [3, *some()], "rejected_ids": [4, *some()]} for _ in range(1100)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["--model.model_name_or_path", run.model, "--data.dataset", data, "--train.batch_size", 128]
    words += ["--ckpt.output_dir", run.folder / "long"]
    status, text = train(TRAIN, words, die=["reference", 2])
    assert status == -9
    assert "0 of 1100 pairs have the reference's log-probabilities" in text
    status, text = train(TRAIN, words)
    assert status == 0, text[-3000:]
    assert "1024 of 1100 pairs have the reference's log-probabilities" in text
    assert not [path.name for path in run.folder.iterdir() if "long.ref" in path.name]


def test_a_write_of_the_reference_keeps_what_another_run_has_put_there_since(tmp_path):
    """Two runs share the file: each reads it empty, and each adds a pair of its own."""
    code = (
        "import sys, torch.distributed as dist\n"
        "from pathlib import Path\n"
        "from openrlhf_negdata import cpu; cpu.setup()\n"
        "from openrlhf_negdata.trainers.reference import Reference, _read\n"
        "dist.init_process_group('gloo', init_method='file://' + sys.argv[1] + '/met', rank=0, world_size=1)\n"
        "path = Path(sys.argv[1]) / 'ref.parquet'\n"
        "one, other = (Reference(path, name, 'bf16') for name in ('a', 'b'))\n"
        "one._share({'x': (1.0, 2.0)}); other._share({'y': (3.0, 4.0)})\n"
        "print(sorted(_read(path).items()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[('x', (1.0, 2.0)), ('y', (3.0, 4.0))]"], done.stderr[-2000:]


def test_a_pass_over_all_pairs_goes_problem_by_problem_whatever_the_order_of_the_file(cpu_host):
    """In the order that `build` shuffles, two pairs of one problem hardly ever meet in a micro-batch."""
    from openrlhf_negdata.trainers.tokens import Pair
    from openrlhf_negdata.trainers.updates import PairUpdates

    pairs = [Pair(i, f"p{i % 8}", [1, 2, 3], [4 + i], [40 + i]) for i in range(32)]
    made = [pair for items in PairUpdates(pairs, 4, 1, 0, 64).once() for pair in items]
    assert sorted(pair.number for pair in made) == list(range(32))
    assert [len({pair.problem for pair in made[i : i + 4]}) for i in range(0, 32, 4)] == [1] * 8


def test_rows_whose_problem_is_null_are_no_one_group(cpu_host):
    from openrlhf_negdata.trainers.tokens import StepPairs

    rows = [{"prompt_ids": [i], "chosen_ids": [1], "rejected_ids": [2], "problem": None} for i in (5, 6)]
    assert len({pair.problem for pair in StepPairs(rows, 9)}) == 2
