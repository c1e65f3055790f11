"""What is trained on is what was sampled, token for token, through every builder and both datasets."""

import json
import random
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.records import Problem, Rollout, StepValues, Trace
from openrlhf_negdata.rollouts.prompts import Prompting
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS, split_steps
from openrlhf_negdata.tasks import load

#: Settings of a value run.
MADE = {"task": "gsm8k", "budget": asdict(Budget()), "steps": asdict(PRESETS["task"])}

KINDS = ("byte_bpe", "sentencepiece", "character")
TASK = load("gsm8k")
K = 6
LINES = ["He has 5 apples.\n", "She eats 12.5% of 漢.\n\n", "It is 3*4=<<3*4=12>>12\n", "é \n", "#### 12", "A: 7\n"]
BUILDS = {
    "algorithm1": ("algorithm1",),
    "shared_prefix": ("shared-prefix",),
    "siblings": ("siblings", "--min_gap", "0.1", "--min_rollouts", "2"),
    "dpo": ("dpo",),
    "rft": ("rft",),
}


class Sampled:
    """A value run and a graded run of answers and rollouts such as a policy samples: lines cut into tokens in any of
    the ways the tokenizer can read, not only in the one it would write; with and without an end-of-sequence token."""

    def __init__(self, tokenizer, seed: int, folder: Path) -> None:
        self.tokenizer, self.rng = tokenizer, random.Random(seed)
        problems = [Problem(f"p{number}", f"How many {number}?", "12") for number in range(2)]
        tokenizer.save_pretrained(folder / "tokenizer")
        self.prompts = {p.id: Prompting().encoder(tokenizer, TASK)(p.question) for p in problems}
        self.steps = [self.line() for _ in range(6)]
        self.traces, self.values, self.rollouts = [], [], []
        for problem in problems:
            for sample, outcome in enumerate(["correct", "wrong", "no_answer", "wrong", "correct"]):
                self.add(problem.id, sample, outcome)
        seen = {(rollout.problem, tuple(rollout.prefix_ids)): [] for rollout in self.rollouts}
        for rollout in self.rollouts:  # equal prefixes are rolled out once
            if len(seen[rollout.problem, tuple(rollout.prefix_ids)]) < K:
                seen[rollout.problem, tuple(rollout.prefix_ids)].append(rollout)
        self.rollouts = [rollout for made in seen.values() for rollout in made]
        for command in ("grade", "value"):
            run = Run.create(folder / command, command, MADE, problems, tokenizer_from=folder)
            run.expect(1)
            run.write("traces", 0, self.traces)
            if command == "value":
                run.write("values", 0, self.values)
                run.write("rollouts", 0, self.rollouts)
            run.finish({})

    def line(self) -> list[int]:
        text = self.rng.choice(LINES)
        cut = self.rng.randrange(len(text) + 1)
        return [
            token
            for piece in (text[:cut], text[cut:])
            for token in self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        ]

    def ids(self, ended: bool = True) -> list[int]:
        lines = [token for _ in range(self.rng.randrange(1, 4)) for token in self.rng.choice(self.steps)]
        return lines + [self.tokenizer.eos_token_id] * (ended and self.rng.random() < 0.8)

    def add(self, problem: str, sample: int, outcome: str) -> None:
        ids = self.ids()
        self.traces.append(Trace(problem, sample, self.prompts[problem], ids, "", "stop", outcome))
        ends = [end for _, end in split_steps(ids, self.tokenizer, TASK)]
        self.values.append(
            StepValues(problem, sample, ends, [self.rng.randrange(K + 1) for _ in ends], [K] * len(ends))
        )
        for start in [0, *ends[:-1]]:
            for _ in range(K):
                outcome = self.rng.choice(["correct", "wrong", "truncated"])
                self.rollouts.append(Rollout(problem, ids[:start], self.ids(outcome != "truncated"), outcome, 0))

    def wholes(self) -> set[tuple[int, ...]]:
        return {(*trace.prompt_ids, *trace.token_ids) for trace in self.traces} | {
            (*self.prompts[r.problem], *r.prefix_ids, *r.token_ids) for r in self.rollouts
        }


def build(folder: Path, name: str) -> list[dict]:
    """The rows of the set; none where the builder says that nothing is left."""
    arm, *flags = BUILDS[name]
    output = folder / f"{name}.jsonl"
    source = folder / ("grade" if arm in ("dpo", "rft") else "value")
    if main(["build", arm, "--input", str(source), "--output", str(output), *flags]) != 0:
        return []
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_what_was_sampled_and_ends_only_where_the_policy_ended(tokenizers, kind):
    tokenizer, rows_seen = tokenizers[kind], dict.fromkeys(BUILDS, 0)
    ended = {"with": 0, "without": 0}
    eos = tokenizer.eos_token_id

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(st.integers(0, 2**32))
    def check(seed):
        with tempfile.TemporaryDirectory() as folder:
            sampled = Sampled(tokenizer, seed, Path(folder))
            built = {name: build(Path(folder), name) for name in BUILDS}
        wholes = sampled.wholes()
        starts = {whole[:count] for whole in wholes for count in range(len(whole) + 1)}
        for name, rows in built.items():
            rows_seen[name] += len(rows)
            for row in rows:
                prompt = row["prompt_ids"]
                positive = row["response_ids" if name == "rft" else "chosen_ids"]
                assert (*prompt, *positive) in wholes
                assert eos not in prompt
                if name == "rft":
                    continue
                rejected = row["rejected_ids"]
                whole = (*prompt, *rejected)
                assert whole in starts
                assert rejected.count(eos) == (rejected[-1] == eos)
                if eos in rejected:
                    assert whole in wholes
                    ended["with"] += 1
                elif whole in wholes:
                    ended["without"] += 1
                elif (*whole, eos) in wholes:  # then it is a step in the middle of another answer
                    assert any(other[: len(whole)] == whole and other[len(whole)] != eos for other in wholes - {whole})
                for side in ("prompt", "chosen", "rejected"):
                    text = tokenizer.decode(row[f"{side}_ids"], skip_special_tokens=False)
                    assert row[side] == text

    check()
    # The property was looked at, for every builder and both kinds of ending.
    assert all(rows_seen.values()), rows_seen
    assert all(ended.values()), ended


def test_a_rejected_step_in_the_middle_has_no_end_and_a_last_one_has_the_policys_own(tokenizers, tmp_path):
    """By hand: steps are `a newline`, `b newline`, `#### 1 eos`. Answer 1 falls at its second step, 2 at its last,
    3 at its last too and the policy wrote no end-of-sequence token there."""
    tokenizer = tokenizers["character"]
    eos = tokenizer.eos_token_id
    first, second, last = (tokenizer(text)["input_ids"] for text in ("a\n", "b\n", "#### 1"))
    right = [*first, *tokenizer("#### 2")["input_ids"], eos]
    answers = [[*first, *second, *last, eos], [*first, *last, eos], [*first, *last]]
    prompt = tokenizer("?")["input_ids"]
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    run = Run.create(tmp_path / "value", "value", MADE, [Problem("p", "?", "2")], tmp_path)
    run.expect(1)
    run.write(
        "traces",
        0,
        [Trace("p", 0, prompt, right, "", "stop", "correct")]
        + [Trace("p", number, prompt, ids, "", "stop", "wrong") for number, ids in enumerate(answers, start=1)],
    )
    ends = [[end for _, end in split_steps(ids, tokenizer, TASK)] for ids in answers]
    correct = [[3, 4, 0], [3, 4], [3, 4]]
    run.write("values", 0, [StepValues("p", 1 + i, ends[i], correct[i], [4] * len(ends[i])) for i in range(3)])
    run.write("rollouts", 0, [Rollout("p", first, right[len(first) :], "correct", 0)])
    run.finish({})
    for pairing, shared in (("algorithm1", 0), ("shared_prefix", len(first))):
        rows = build(tmp_path, pairing)
        assert sorted(row["rejected_ids"] for row in rows) == sorted(
            ids[shared:] for ids in ([*first, *second], [*first, *last, eos], [*first, *last])
        )
        assert {tuple(row["chosen_ids"]) for row in rows} == {tuple(right[shared:])}
        assert {tuple(row["prompt_ids"]) for row in rows} == {(*prompt, *right[:shared])}


IDS = st.lists(st.integers(0, 50), max_size=8)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(IDS, IDS, IDS), max_size=8), st.integers(1, 20))
def test_pairs_reach_the_trainer_as_they_stand_or_are_dropped_and_counted(rows, max_length):
    from openrlhf_negdata.trainers.tokens import StepPairs

    kept = [
        (prompt, chosen, rejected)
        for prompt, chosen, rejected in rows
        if prompt and chosen and rejected and chosen != rejected
        if len(prompt) + max(len(chosen), len(rejected)) <= max_length
    ]
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    # Rows after the one that is always kept: a set with no row left is refused.
    data = StepPairs([dict(zip(names, row, strict=True)) for row in [([1], [2], [3]), *rows]], max(2, max_length))
    if max_length < 2:
        return
    assert len(data) + data.dropped.total() == 1 + len(rows)
    for number, ((prompt, chosen, rejected), pair) in enumerate(zip([([1], [2], [3]), *kept], data, strict=True)):
        assert pair.number == number
        assert pair.sequences() == (prompt + chosen, prompt + rejected)
        assert pair.prompt == prompt


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(IDS, IDS), max_size=8), st.integers(2, 16))
def test_answers_reach_the_trainer_as_they_stand_and_their_own_tokens_are_trained(rows, max_length):
    from openrlhf_negdata.trainers.tokens import TokenSFTDataset

    rows = [([1], [2]), *rows]
    kept = [(p, r) for p, r in rows if p and r and len(p) + len(r) <= max_length]
    dataset = TokenSFTDataset([{"prompt_ids": p, "response_ids": r} for p, r in rows], None, max_length)
    assert len(dataset) + dataset.dropped.total() == len(rows)
    for (prompt, response), (ids, mask, loss_mask) in zip(
        kept, map(dataset.__getitem__, range(len(dataset))), strict=True
    ):
        assert ids.tolist() == [prompt + response]
        assert bool(mask.all())
        # Position t of the mask stands for the loss on token t + 1.
        trained = [ids[0, t + 1].item() for t in range(ids.shape[1] - 1) if loss_mask[0, t]]
        assert trained == response
        assert loss_mask[0, -1] == 0


def test_what_cannot_be_trained_on_is_dropped_by_reason():
    from openrlhf_negdata.errors import UserError
    from openrlhf_negdata.trainers.tokens import StepPairs, TokenSFTDataset

    pairs = [
        ([1], [2], [3]),
        ([], [2], [3]),
        ([1], [], [3]),
        ([1], [2], []),
        ([1], [2], [2]),
        ([1], [2, 2, 2, 2], [3]),
    ]
    rows = [dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), pair, strict=True)) for pair in pairs]
    dataset = StepPairs(rows, 4)
    assert (len(dataset), dict(dataset.dropped)) == (1, {"empty": 3, "equal": 1, "over_long": 1})
    answers = [{"prompt_ids": p, "response_ids": r} for p, r in [([1], [2]), ([], [2]), ([1], []), ([1], [2] * 4)]]
    sft = TokenSFTDataset(answers, None, 4)
    assert (len(sft), dict(sft.dropped)) == (1, {"empty": 2, "over_long": 1})
    with pytest.raises(UserError, match="no row is left to train on .*'over_long': 1"):
        TokenSFTDataset(answers[3:], None, 4)
