"""Training sets with known answers: small runs made by hand, and cards that account for every row of any run."""

import json
import random
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.datasets import arms
from openrlhf_negdata.datasets.arms.algorithm1 import Algorithm1
from openrlhf_negdata.datasets.arms.dpo import Dpo
from openrlhf_negdata.datasets.arms.rft import Rft
from openrlhf_negdata.datasets.arms.sft import Sft
from openrlhf_negdata.datasets.arms.shared_prefix import SharedPrefix
from openrlhf_negdata.datasets.arms.siblings import Siblings
from openrlhf_negdata.datasets.rows import Account, Answered, Arm
from openrlhf_negdata.files import ShuffledRows
from openrlhf_negdata.records import OUTCOMES, Problem, Rollout, StepValues, Trace
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS, split_steps
from openrlhf_negdata.tasks import load

TASK = load("gsm8k")
PROBLEMS = [Problem("p", "?", "2", "a\n#### 2"), Problem("q", "??", "3")]


@pytest.fixture(scope="session")
def tokenizer(tokenizers):
    return tokenizers["character"]


class Hand:
    """Runs written as text. ``|`` ends an answer with the end-of-sequence token."""

    def __init__(self, tokenizer, folder: Path) -> None:
        self.tokenizer, self.folder = tokenizer, folder
        self.traces, self.values, self.rollouts = [], [], []
        self.budget = Budget()

    def ids(self, text: str) -> list[int]:
        ended = text.endswith("|")
        return self.tokenizer(text.rstrip("|"))["input_ids"] + [self.tokenizer.eos_token_id] * ended

    def trace(self, text: str, outcome: str, correct: list[int] | None = None, k: int = 4, problem: str = "p") -> None:
        """An answer, and where it is valued how many of ``k`` rollouts before each of its steps were right."""
        ids, sample = self.ids(text), len(self.traces)
        prompt = self.tokenizer(TASK.prompt("?" if problem == "p" else "??"))["input_ids"]
        reason = "length" if outcome == "truncated" else "stop"
        self.traces.append(Trace(problem, sample, prompt, ids, text.rstrip("|"), reason, outcome))
        if correct is not None:
            ends = [end for _, end in split_steps(ids, self.tokenizer, TASK)]
            assert len(ends) == len(correct)
            self.values.append(StepValues(problem, sample, ends, correct, [k] * len(ends)))

    def rolled(self, prefix: str, *continuations: str) -> None:
        """Rollouts of problem p; a right one begins with ``+``, one that ran out of tokens with ``~``."""
        for text in continuations:
            outcome = {"+": "correct", "~": "truncated"}.get(text[0], "wrong")
            self.rollouts.append(Rollout("p", self.ids(prefix), self.ids(text.lstrip("+~-")), outcome, 0))

    def write(self, command: str) -> Path:
        made = {"task": "gsm8k", "budget": asdict(self.budget), "steps": asdict(PRESETS["task"])}
        made |= {"input": {"model": "r"}}
        run = Run.create(self.folder / command, command, made, PROBLEMS)
        self.tokenizer.save_pretrained(run.path / "tokenizer")
        self.traces.sort(key=lambda trace: trace.problem)
        run.expect(1)
        run.write("traces", 0, self.traces)
        if command == "value":
            run.write("values", 0, sorted(self.values, key=lambda values: values.problem))
            run.write("rollouts", 0, self.rollouts)
        run.finish({})
        return run.path

    def build(self, arm: str, *flags: object, status: int = 0) -> list[dict]:
        source = self.folder / ("grade" if arm in ("sft", "rft", "dpo", "dpo-edit-distance") else "value")
        if not source.exists():
            self.write(source.name)
        output = self.folder / "set.jsonl"
        assert main(["build", arm, "--input", str(source), "--output", str(output), *map(str, flags)]) == status
        return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] if status == 0 else []

    def card(self) -> str:
        return (self.folder / "set.jsonl.card.md").read_text(encoding="utf-8")

    def accounted(self) -> dict[str, int]:
        """The card's table of what went in."""
        return {
            what: int(count)
            for what, count in re.findall(r"^\| (in|kept|dropped: \w+) \| (\d+) \|$", self.card(), re.M)
        }


@pytest.fixture
def hand(tokenizer, tmp_path) -> Hand:
    return Hand(tokenizer, tmp_path)


def sides(rows: list[dict]) -> list[tuple[str, str, str]]:
    prompt = TASK.prompt("?")
    assert all(row["prompt"].startswith(prompt) for row in rows)
    return sorted((row["prompt"].removeprefix(prompt), row["chosen"], row["rejected"]) for row in rows)


def worked_example(hand: Hand) -> None:
    """Problem p. Values before the steps, and the pit, of the wrong answers:

    1. `a b 1`: 3/4, 1/2, 0 and then 0. Lowest Q after a step: 0 after `b`, the pit. Advantages -1/4, -1/2, 0: `b` too.
    2. `a c 1`: 3/4, 1/2, 1/4 and then 0. Lowest Q: after the last step `1`. Advantages all -1/4: the first, `a`.
    3. `d 1`: 3/4, 1 and then 0: `1` loses everything, by either definition.
    4. `e 1`: 0, 0 and then 0: nothing is lost anywhere.
    The right answer is `a 2`. From `a`, `2` and `b 2` were right; from the prompt, `a 2` and `f 2`; from `d`, `2`.
    """
    hand.trace("a\n#### 2|", "correct", [3, 2])
    hand.trace("a\nb\n#### 1|", "wrong", [3, 2, 0])
    hand.trace("a\nc\n#### 1|", "wrong", [3, 2, 1])
    hand.trace("d\n#### 1|", "no_answer", [3, 4])
    hand.trace("e\n#### 1|", "wrong", [0, 0])
    hand.trace("a\nb\n", "truncated")
    hand.rolled("", "+a\n#### 2|", "+f\n#### 2|", "+a\n#### 2|", "-e\n#### 1|")
    hand.rolled("a\n", "+#### 2|", "+b\n#### 2|", "-c\n#### 1|", "-b\n#### 1|")
    hand.rolled("d\n", "+#### 2|", "+#### 2|", "+#### 2|", "+#### 2|")


@pytest.mark.parametrize("arm", ["siblings", "dpo", "sft", "rft"])
def test_the_help_of_an_arm_says_what_it_is_made_of_and_names_its_flags_as_they_are_written(arm, capsys):
    with pytest.raises(SystemExit):
        main(["build", arm, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "``" not in told
    assert "(default: [])" not in told
    assert ("a run folder of `negdata value` --problems_from" in told) == (arm == "siblings")
    assert ("traces.jsonl --problems_from" in told) == (arm in ("dpo", "rft"))


def test_the_help_of_build_says_in_one_line_what_each_arm_is(capsys):
    with pytest.raises(SystemExit):
        main(["build", "--help"])
    _, _, listed = capsys.readouterr().out.partition("arms:\n")
    lines = dict(line.split(maxsplit=1) for line in listed.splitlines())
    assert list(lines) == arms.names()
    assert all(10 < len(line) <= 97 and not line.endswith(("et al", ":", ".")) for line in lines.values())


def test_algorithm_1_sets_a_right_answer_against_the_wrong_one_cut_after_its_pit(hand):
    worked_example(hand)
    right = "a\n#### 2</s>"
    expected = [("", right, "a\nb\n"), ("", right, "a\nc\n#### 1</s>"), ("", right, "d\n#### 1</s>")]
    rows = hand.build("algorithm1")
    assert sides(rows) == expected
    assert sorted((row["q_before"], row["q_rejected"]) for row in rows) == [(0.25, 0.0), (0.5, 0.0), (1.0, 0.0)]
    assert hand.accounted() == {"in": 5, "kept": 3, "dropped: correct": 1, "dropped: pit_drop_too_small": 1}
    rows = hand.build("algorithm1", "--pit", "lowest_advantage")
    # The pit of answer 2 is now `a`, with which the only right answer begins: its tokens would cancel.
    assert sides(rows) == [expected[0], expected[2]]
    assert hand.accounted()["dropped: rejected_begins_chosen"] == 1


def test_shared_prefix_sets_a_right_rollout_against_the_pit_alone(hand):
    """From before the pit `c 1` of answer 2 under lowest Q there are no rollouts: none is right."""
    worked_example(hand)
    rows = hand.build("shared-prefix")
    # `b 2` is right as well, but takes the very step that is rejected.
    assert sides(rows) == [("a\n", "#### 2</s>", "b\n"), ("d\n", "#### 2</s>", "#### 1</s>")]
    assert hand.accounted() == {
        "in": 5,
        "kept": 2,
        "dropped: correct": 1,
        "dropped: pit_drop_too_small": 1,
        "dropped: no_correct_rollout": 1,
    }
    rows = hand.build("shared-prefix", "--pit", "lowest_advantage")
    # The pit of answer 2 is now its first step `a`; of the right rollouts only `f 2` does not take it.
    assert ("", "f\n#### 2</s>", "a\n") in sides(rows)


def test_shared_prefix_never_chooses_the_step_it_rejects(hand):
    """The only right rollout from before the pit `b` takes `b` itself."""
    hand.trace("a\nb\n#### 1|", "wrong", [3, 2, 0])
    hand.rolled("a\n", "+b\n#### 2|", "-c\n#### 1|")
    hand.build("shared-prefix", status=2)


def test_a_pit_is_blamed_for_a_loss_of_min_drop_or_more(hand):
    worked_example(hand)
    rejected = {}
    for drop in (0.25, 0.5, 0.51, 1.0):
        rejected[drop] = [side[2] for side in sides(hand.build("algorithm1", "--min_drop", drop))]
    assert rejected[0.25] == ["a\nb\n", "a\nc\n#### 1</s>", "d\n#### 1</s>"]
    assert rejected[0.5] == ["a\nb\n", "d\n#### 1</s>"]
    assert rejected[0.51] == rejected[1.0] == ["d\n#### 1</s>"]


def test_pairs_weigh_what_their_pits_lost(hand):
    """The three pits of the worked example lose half or more, a quarter or more, and all."""
    worked_example(hand)
    assert all("weight" not in row for row in hand.build("algorithm1"))
    rows = hand.build("algorithm1", "--min_drop", 0.25, "--weigh_pairs")
    assert [row["weight"] for row in rows] == [round(row["q_before"] - row["q_rejected"], 4) for row in rows]
    least, middle, most = sorted(row["weight"] for row in rows)
    assert 0.25 <= least < 0.5 <= middle < most == 1.0


def test_algorithm_1_needs_a_right_answer_of_the_same_problem(hand):
    hand.trace("a\n#### 1|", "wrong", [2, 2])
    hand.trace("a\n#### 3|", "correct", [2, 2], problem="q")
    hand.write("value")
    hand.build("algorithm1", status=2)


def test_siblings_set_the_best_next_step_against_the_worst(hand):
    """From the prompt, five rollouts took `a` (4 right), four took `b` (1 right), and one took `c` (0 right).

    From `a`, four more: 1 right. So Q(a) = 5/9, and Q(b) = 1/4: a gap of 11/36 = 0.306. `c` has too few. From `a`, all
    rollouts take the same step.
    """
    for _ in range(4):
        hand.rolled("", "+a\n#### 2|")
    hand.rolled("", "-a\n#### 1|", "+b\n#### 2|", "-b\n#### 1|", "-b\n#### 1|", "-b\n#### 5|", "-c\n#### 1|")
    hand.rolled("a\n", "+#### 2|", "-#### 2|", "~#### 2|", "-#### 2|")
    hand.trace("a\n#### 2|", "correct", [3, 1])
    rows = hand.build("siblings")
    assert sides(rows) == [("", "a\n#### 2</s>", "b\n")]
    assert (rows[0]["q_chosen"], rows[0]["q_rejected"]) == (round(5 / 9, 4), 0.25)
    assert hand.build("siblings", "--weigh_pairs")[0]["weight"] == round(11 / 36, 4)
    assert hand.accounted() == {"in": 2, "kept": 1, "dropped: one_step": 1}
    hand.build("siblings", "--min_gap", 0.306, status=2)
    # With one rollout a step enough, `c` is the worst.
    rows = hand.build("siblings", "--min_rollouts", 1)
    assert sides(rows) == [("", "a\n#### 2</s>", "c\n")]
    assert rows[0]["q_rejected"] == 0.0
    # With six, only `a` has enough.
    hand.build("siblings", "--min_rollouts", 6, status=2)


def test_siblings_of_a_race_are_the_steps_that_it_told_apart(hand):
    """Of `a` all of 12 rollouts are right, of `b` none of 8, of `c` none of 4: that is too few to be the worst. At a
    gap of 0.9 the two are not told apart, though all that was seen of them is."""
    hand.budget = Budget("race")
    hand.rolled("", *["+a\n#### 2|"] * 4, *["-b\n#### 1|"] * 4, *["-c\n#### 1|"] * 4)
    hand.rolled("a\n", *["+#### 2|"] * 8)
    hand.rolled("b\n", *["-#### 1|"] * 4)
    hand.trace("d\ne\n#### 1|", "wrong", [4, 0, 0])
    assert sides(hand.build("siblings")) == [("", "a\n#### 2</s>", "b\n")]
    assert hand.accounted()["dropped: one_step"] == 2
    hand.build("siblings", "--min_gap", 0.9, status=2)


def test_siblings_join_what_the_task_calls_one_step(hand):
    """Each wording of the worse step has two rollouts; together they have the four that a value takes."""
    hand.rolled("", *["+a\n#### 2|"] * 4, *["-1+1=3\n#### 1|"] * 2, *["-1 + 1 = 3\n#### 1|"] * 2)
    hand.trace("a\n#### 1|", "wrong", [2, 2])
    assert sides(hand.build("siblings")) == [("", "a\n#### 2</s>", "1+1=3\n")]


@pytest.mark.parametrize(("answers", "warns"), [("abcdefgh", True), ("aabbccdd", False), ("aabcdefg", True)])
def test_the_dry_run_of_value_warns_where_siblings_will_find_few_pairs(hand, monkeypatch, capsys, answers, warns):
    """Eight answers that begin with these steps: where most begin as no other does, so will rollouts. An answer that
    was cut off within its first step tells nothing; a sequential budget serves no siblings."""
    for step in answers:
        hand.trace(f"{step}\n#### 1|", "wrong")
    hand.trace("aaaaa", "truncated")
    graded = hand.write("grade")
    monkeypatch.setattr("openrlhf_negdata.cli.value.check_policy", lambda *_: "none")
    monkeypatch.setattr("openrlhf_negdata.models.revision", lambda _: "r")
    words = ["value", "--input", graded, "--model.model_name_or_path", "none", "--output", "none", "--dry_run"]
    assert main(list(map(str, words))) == 0
    assert ("siblings will find few pairs" in capsys.readouterr().err) == warns
    assert main(list(map(str, [*words, "--value.budget", "sequential"]))) == 0
    assert "siblings" not in capsys.readouterr().err


def test_a_right_continuation_may_come_from_the_prefix_that_the_step_makes(hand):
    """No rollout from the prompt that took `a` was right, but two made from `a` were: they are chosen from the
    prompt on, `a` and all."""
    hand.rolled("", *["-a\n#### 1|"] * 2, *["-b\n#### 1|"] * 4)
    hand.rolled("a\n", "+#### 2|", "+#### 2|", "-c\n#### 1|", "-c\n#### 1|")
    hand.trace("a\n#### 1|", "wrong", [0, 2])
    rows = hand.build("siblings", "--min_rollouts", 2)
    # From `a`, `2` is worth 1 and `c` 0.
    assert sides(rows) == [("", "a\n#### 2</s>", "b\n"), ("a\n", "#### 2</s>", "c\n")]
    assert hand.accounted() == {"in": 2, "kept": 2}


def test_a_step_that_ran_out_of_tokens_is_no_step(hand):
    """Eight rollouts were cut off within their first step: it is neither right nor wrong, and never rejected."""
    hand.rolled("", *["+abc\n#### 2|"] * 4, *["~ab"] * 8, *["-d\n#### 1|"] * 4, "~d\n##")
    hand.trace("abc\n#### 1|", "wrong", [0, 0])
    assert sides(hand.build("siblings")) == [("", "abc\n#### 2</s>", "d\n")]


def test_a_step_is_not_rejected_where_the_best_one_begins_with_it(hand):
    """`a newline` is rejected nowhere: `a newline newline` goes through it. Nor is a step paired with itself."""
    hand.rolled("", *["+a\n\n#### 2|"] * 4, *["-a\n#### 1|"] * 4)
    hand.rolled("b\n", *["-c\n#### 1|"] * 4, *["-d\n#### 1|"] * 4)
    hand.trace("a\n#### 1|", "wrong", [0, 0])
    hand.write("value")
    for gap in (0.3, 0, -1):
        hand.build("siblings", "--min_gap", gap, status=2)


def test_a_right_continuation_that_takes_the_rejected_step_is_not_chosen(hand):
    """`a` and the end of the answer is a step of its own, and one of the right answers through `a newline` ends as it
    does: the first step of that one is another, but its tokens begin with those rejected."""
    hand.rolled("", *["+a\n#### 2|"] * 4, *["-a|"] * 4)
    hand.rolled("b\n", *["-c\n|"] * 4, *["+c\n#### 2|"] * 4)
    hand.rolled("b\nc\n", *["+|"] * 40)
    hand.trace("b\nc\n#### 1|", "wrong", [0, 0, 0])
    rows = hand.build("siblings")
    # And the end of the wrong answer, which no rollout took, is rejected for that of the right ones.
    own = ("b\nc\n", "</s>", "#### 1</s>")
    assert sides(rows) == [("", "a\n#### 2</s>", "a</s>"), ("b\n", "c\n#### 2</s>", "c\n</s>"), own]


def test_rft_keeps_distinct_right_answers_as_they_were_sampled(hand):
    for text, outcome in (
        ("x|", "correct"),
        ("y|", "wrong"),
        ("x|", "correct"),
        ("z|", "correct"),
        ("w", "truncated"),
    ):
        hand.trace(text, outcome)
    hand.trace("x|", "correct", problem="q")
    rows = hand.build("rft")
    assert sorted((row["problem"], row["response"]) for row in rows) == [("p", "x"), ("p", "z"), ("q", "x")]
    assert {tuple(row["response_ids"]) for row in rows} == {tuple(hand.ids("x|")), tuple(hand.ids("z|"))}
    assert hand.accounted() == {
        "in": 6,
        "kept": 3,
        "dropped: wrong": 1,
        "dropped: truncated": 1,
        "dropped: duplicate": 1,
    }
    rows = hand.build("rft", "--per_problem", 1)
    assert sorted((row["problem"], row["response"]) for row in rows) == [("p", "x"), ("q", "x")]
    assert hand.accounted()["dropped: over_per_problem"] == 1
    rows = hand.build("rft", "--per_problem", 1, "--with_solutions")
    assert sorted(row["response"] for row in rows) == ["a\n#### 2", "x", "x"]
    assert [row["response_ids"] for row in rows if row["response"] == "a\n#### 2"] == [hand.ids("a\n#### 2|")]
    assert "| problems | count |" in hand.card()
    # Both arms look at every answer; the card counts it once.
    assert "\n| correct | 4 |\n" in hand.card()


def test_naive_pairs_set_any_right_answer_against_each_wrong_one(hand):
    for text, outcome in (
        ("x|", "correct"),
        ("y|", "wrong"),
        ("y|", "wrong"),
        ("z|", "no_answer"),
        ("w", "truncated"),
    ):
        hand.trace(text, outcome)
    hand.trace("x|", "correct", problem="q")
    rows = hand.build("dpo")
    assert sides(rows) == [("", "x</s>", "y</s>"), ("", "x</s>", "z</s>")]
    assert hand.accounted() == {
        "in": 6,
        "kept": 3,
        "dropped: duplicate": 1,
        "dropped: truncated": 1,
        "dropped: problem_all_correct": 1,
    }
    assert len(hand.build("dpo", "--per_problem", 1)) == 1
    assert hand.accounted()["dropped: not_drawn"] == 1


def test_sft_takes_the_solutions_and_counts_problems_without_one(hand):
    rows = hand.build("sft")
    assert [(row["problem"], row["response"], row["response_ids"]) for row in rows] == [
        ("p", "a\n#### 2", hand.ids("a\n#### 2|"))
    ]
    assert rows[0]["prompt_ids"] == hand.ids(TASK.prompt("?"))
    assert hand.accounted() == {"in": 2, "kept": 1, "dropped: no_solution": 1}


@pytest.mark.parametrize("arm", ["sft", "rft", "dpo", "algorithm1"])
def test_the_same_set_is_not_built_again_and_an_equal_run_gives_the_same_bytes(hand, tokenizer, tmp_path, arm, capsys):
    worked_example(hand)
    hand.build(arm)
    files = [tmp_path / "set.jsonl", tmp_path / "set.jsonl.card.md"]
    made = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    capsys.readouterr()
    hand.build(arm)
    assert capsys.readouterr().out == f"{files[0]} is complete\n"
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == made
    again = Hand(tokenizer, tmp_path / "again")
    worked_example(again)
    again.build(arm)
    contents = [(tmp_path / "again" / file.name).read_text() for file in files]
    # The card says where it was made.
    assert [text.replace(f"{tmp_path}/again/", f"{tmp_path}/") for text in contents] == [c.decode() for c, _ in made]
    # Another seed is another set, and a set of which half is missing is made again.
    hand.build(arm, "--seed", 1)
    assert "- seed: `1`" in hand.card()
    files[0].unlink()
    hand.build(arm, "--seed", 1)
    assert files[0].exists()


COUNTED = settings(max_examples=60, deadline=None)
ANSWERS = st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from(OUTCOMES), st.integers(0, 4)), max_size=25)


def made_by(arm: Arm, traces: list[Trace], values=(), rollouts=()) -> tuple[list[dict], Account]:
    """The rows of an arm and its account."""
    source = []
    for problem in PROBLEMS:
        mine = [[row for row in rows if row.problem == problem.id] for rows in (traces, values, rollouts)]
        teacher = Trace(problem.id, -1, [1], [2], problem.solution, "stop", "correct") if problem.solution else None
        source.append(Answered(problem, "", [1], teacher, *mine))
    arm.prepare(source)
    account = Account(arm.unit)
    rows = [row for known in source for row in arm.rows(known, account)]
    assert account.total == sum(arm.units(known) for known in source)
    return rows, account


@COUNTED
@given(ANSWERS, st.integers(-1, 3), st.integers(0, 3), st.booleans())
def test_every_answer_is_kept_or_dropped_for_a_reason(rows, per_problem, seed, with_ids):
    traces = [
        Trace(problem, i, [1] if with_ids else None, [text] if with_ids else None, str(text), "stop", outcome)
        for i, (problem, outcome, text) in enumerate(rows)
    ]
    kept, account = made_by(Rft(per_problem=per_problem), traces)
    assert (account.total, account.kept) == (len(traces), len(kept))
    pairs, account = made_by(Dpo(per_problem=per_problem, seed=seed), traces)
    assert account.total == len(traces)
    # Each wrong answer is in one pair; a right one may be in several.
    distinct = {(p["problem"], side, p[side]) for p in pairs for side in ("chosen", "rejected")}
    assert account.kept == len(distinct)
    assert len({(p["problem"], p["rejected"]) for p in pairs}) == len(pairs)
    solutions, account = made_by(Sft(), traces)
    assert (account.total, account.kept, len(solutions)) == (2, 1, 1)


STEPS = [[11, 5], [12, 5], [13, 13, 5], [14, 5]]


class Fives:
    """Decodes token i to the character of number 60 + i, and 5 to a newline."""

    all_special_ids, unk_token_id, eos_token_id = (0,), None, 0

    def decode(self, ids, **_):
        return "".join("\n" if i == 5 else "|" if i == 0 else chr(60 + i) for i in ids)


def random_values(seed: int) -> tuple[list[Trace], list[StepValues], list[Rollout]]:
    rng, traces, rows, rollouts = random.Random(seed), [], [], {}
    for sample in range(rng.randrange(1, 8)):
        problem = rng.choice("pq")
        steps = [rng.choice(STEPS) for _ in range(rng.randrange(1, 4))]
        ids = [token for step in steps for token in step] + [0] * rng.randrange(2)
        ends = [end for _, end in split_steps(ids, Fives(), TASK)]
        traces.append(Trace(problem, sample, [1], ids, "", "stop", rng.choice(["correct", "wrong", "no_answer"])))
        rows.append(StepValues(problem, sample, ends, [rng.randrange(5) for _ in ends], [4] * len(ends)))
        for start in [0, *ends[:-1]]:
            rollouts[problem, tuple(ids[:start])] = [
                Rollout(
                    problem,
                    ids[:start],
                    [token for _ in range(rng.randrange(3)) for token in rng.choice(STEPS)] + [0] * rng.randrange(2),
                    rng.choice(["correct", "wrong", "truncated"]),
                    0,
                )
                for _ in range(4)
            ]
    return traces, rows, [rollout for made in rollouts.values() for rollout in made]


@COUNTED
@given(st.integers(0, 2**32), st.sampled_from([-1.0, 0.0, 0.3]), st.integers(1, 4))
def test_every_valued_answer_and_every_prefix_is_kept_or_dropped_for_a_reason(seed, least, min_rollouts):
    traces, values, rollouts = random_values(seed)
    for pairing in (Algorithm1, SharedPrefix):
        for pit in ("lowest_q", "lowest_advantage"):
            made = [made_by(pairing(pit=pit, min_drop=least), traces, values, rollouts) for _ in range(2)]
            rows, account = made[0]
            assert made[0] == made[1]
            assert (account.total, account.kept) == (len(values), len(rows))
            assert account.dropped["correct"] == sum(trace.outcome == "correct" for trace in traces)
            assert all(row["q_before"] - row["q_rejected"] >= max(least, 0.01) for row in rows)
            if pairing is SharedPrefix:
                assert all(row["chosen_ids"][: len(row["rejected_ids"])] != row["rejected_ids"] for row in rows)
    siblings = Siblings(
        first_step=lambda _, ids: (split_steps(ids, Fives(), TASK) or [(0, 0)])[0][1],
        min_gap=least,
        min_rollouts=min_rollouts,
    )
    made = [made_by(siblings, traces, values, rollouts) for _ in range(2)]
    rows, account = made[0]
    assert made[0] == made[1]
    assert (account.total, account.kept) == (len({(r.problem, tuple(r.prefix_ids)) for r in rollouts}), len(rows))
    for row in rows:
        assert row["q_chosen"] - row["q_rejected"] >= least - 1e-4
        assert row["chosen_ids"][: len(row["rejected_ids"])] != row["rejected_ids"]


def shuffled(path: Path, seed: int, size: int | None = None) -> list[int]:
    rows = ShuffledRows(path)
    for i in range(50):
        rows.add({"row": i, "text": "\udc80é\n" * i})
    assert len(rows) == 50
    order = rows.write(seed, size)
    made = [
        json.loads(line)["row"] for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    ]
    assert made == order
    return made


def test_rows_are_shuffled_by_the_seed_alone_and_a_larger_size_begins_with_a_smaller(tmp_path):
    path = tmp_path / "rows.jsonl"
    order = shuffled(path, 0)
    assert order == shuffled(path, 0) != shuffled(path, 1)
    assert sorted(order) == list(range(50))
    assert [shuffled(path, 0, size) for size in (0, 7, 50)] == [order[:0], order[:7], order]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("arm", ["algorithm1", "dpo", "rft"])
def test_the_card_of_pairs_warns_of_trainers_that_take_their_text(hand, arm):
    worked_example(hand)
    hand.build(arm)
    assert ("puts an end-of-sequence token after it" in " ".join(hand.card().split())) == (arm != "rft")
