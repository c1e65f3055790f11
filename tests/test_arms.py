"""Every arm made of step values, built by the command and compared with a slow second implementation.

The second one works on text and fractions: it splits answers at newlines, counts right rollouts itself and knows
nothing of the package but the files that the run holds.
"""

import json
import math
import os
import random
import re
from collections import Counter, defaultdict
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import pytest

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.datasets import arms
from openrlhf_negdata.datasets.arms.prm import Prm
from openrlhf_negdata.datasets.arms.rft import Rft, equations
from openrlhf_negdata.datasets.rows import Account, Answered
from openrlhf_negdata.records import Problem, Rollout, StepValues, Trace
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS
from openrlhf_negdata.tasks import load

TASK, K = load("gsm8k"), 8
PROBLEMS = [Problem(f"p{i}", "?" * (i + 1), "2", "teach\n#### 2" if i % 3 else None) for i in range(12)]
OUTCOMES = {"2": "correct", "1": "wrong", "": "no_answer"}


class World:
    """A run of `negdata value` written as text. ``traces[problem, sample]`` is (text, outcome), ``rollouts[problem,
    prefix]`` a list of (text, outcome, seed); a final ``|`` stands for the end-of-sequence token."""

    def __init__(self, tokenizer, folder: Path, solutions: bool = False) -> None:
        self.tokenizer, self.folder, self.solutions = tokenizer, folder, solutions
        self.traces: dict[tuple[str, int], tuple[str, str]] = {}
        self.rollouts: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
        rng, seed = random.Random(5), 0
        for problem in PROBLEMS:
            for sample in range(7):
                text, outcome = self.answer(rng)
                if all(text != other for (which, _), (other, _) in self.traces.items() if which == problem.id):
                    self.traces[problem.id, sample] = text, outcome
            if solutions and problem.solution:
                self.traces[problem.id, -1] = f"{problem.solution}|", "correct"
            for (which, _), (text, _) in self.traces.items():
                steps = self.steps(text)
                for count in range(len(steps)):
                    key = (problem.id, "".join(steps[:count]))
                    if which != problem.id or key in self.rollouts:
                        continue
                    good = rng.choice([0, 0.2, 0.6, 1])
                    self.rollouts[key] = []
                    for _ in range(K):
                        seed += 1
                        self.rollouts[key].append((*self.answer(rng, good), seed))

    @staticmethod
    def answer(rng: random.Random, good: float = 0.4) -> tuple[str, str]:
        final = "2" if rng.random() < good else rng.choice(["1", "1", ""])
        lines = [rng.choice("abc") + "\n" for _ in range(rng.randrange(3))]
        return "".join(lines) + (f"#### {final}|" if final else "so|"), OUTCOMES[final]

    @staticmethod
    def steps(text: str) -> list[str]:
        return re.findall(r"[^\n]*\n|[^\n]+$", text)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text.rstrip("|"))["input_ids"] + [self.tokenizer.eos_token_id] * text.endswith("|")

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids).replace("</s>", "|")

    def write(self) -> Path:
        settings = {
            "solutions": self.solutions,
            "task": "gsm8k",
            "budget": asdict(Budget(n_rollouts=K)),
            "steps": asdict(PRESETS["task"]),
        }
        run = Run.create(self.folder / "values", "value", settings, PROBLEMS)
        self.tokenizer.save_pretrained(run.path / "tokenizer")
        prompts = {problem.id: self.ids(TASK.prompt(problem.question)) for problem in PROBLEMS}
        traces, values = [], []
        for (problem, sample), (text, outcome) in self.traces.items():
            trace = Trace(problem, sample, prompts[problem], self.ids(text), text.rstrip("|"), "stop", outcome)
            traces.append(trace)
            steps = self.steps(text)
            ends = [len(self.ids("".join(steps[: i + 1]))) for i in range(len(steps))]
            q = self.q(problem, text)
            values.append(StepValues(problem, sample, ends, [int(K * after) for after in q[:-1]], [K] * len(ends)))
        run.expect(1)
        run.write("traces", 0, traces)
        run.write("values", 0, values)
        rows = [
            Rollout(problem, self.ids(prefix), self.ids(text), outcome, seed)
            for (problem, prefix), made in self.rollouts.items()
            for text, outcome, seed in made
        ]
        run.write("rollouts", 0, rows)
        run.finish({})
        return run.path

    def q(self, problem: str, text: str) -> list[Fraction]:
        """The value before each step, and after the last."""
        steps = self.steps(text)
        values = []
        for count in range(len(steps)):
            made = self.rollouts[problem, "".join(steps[:count])]
            values.append(Fraction(sum(outcome == "correct" for _, outcome, _ in made), len(made)))
        return [*values, Fraction(text.endswith("#### 2|"))]

    def advantages(self, problem: str, text: str) -> list[Fraction]:
        q = self.q(problem, text)
        return [q[i + 1] - q[i] for i in range(len(q) - 1)]

    def pit(self, problem: str, text: str) -> int:
        """The first step with the lowest value after it."""
        after = self.q(problem, text)[1:]
        return after.index(min(after))

    def least(self, problem: str, text: str) -> Fraction:
        return min(self.advantages(problem, text))

    def of(self, problem: str, outcome: str | None = None) -> list[str]:
        return [
            text for (which, _), (text, given) in self.traces.items() if which == problem and outcome in (None, given)
        ]

    def build(self, arm: str, *flags: object) -> list[dict]:
        output = self.folder / "set.jsonl"
        words = ["build", arm, "--input", self.folder / "values", "--output", output, *flags]
        assert main(list(map(str, words))) == 0
        card = (self.folder / "set.jsonl.card.md").read_text()
        counts = [int(n) for n in re.findall(r"^\| (?:in|kept|dropped: \w+) \| (\d+) \|$", card, re.M)]
        assert 2 * counts[0] == sum(counts), "in = kept + dropped"
        return read(output)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def world(tokenizers, tmp_path_factory) -> World:
    made = World(tokenizers["character"], tmp_path_factory.mktemp("world"))
    made.write()
    return made


def pairs(world: World, rows: list[dict]) -> Counter:
    """(problem, shared prefix, chosen, rejected), as text, from the ids."""
    found = Counter()
    for row in rows:
        prompt = TASK.prompt(next(problem.question for problem in PROBLEMS if problem.id == row["problem"]))
        begun = world.text(row["prompt_ids"])
        assert begun.startswith(prompt)
        sides = (world.text(row["chosen_ids"]), world.text(row["rejected_ids"]))
        assert sides == (row["chosen"].replace("</s>", "|"), row["rejected"].replace("</s>", "|"))
        found[row["problem"], begun.removeprefix(prompt), *sides] += 1
    return found


def blamed(world: World, positives: bool = False) -> list[tuple[str, str, int]]:
    """Answers that have a pit that lost something."""
    found = []
    for (problem, _), (text, outcome) in world.traces.items():
        pit = world.pit(problem, text)
        if (outcome != "correct" or positives) and world.advantages(problem, text)[pit] < 0:
            found.append((problem, text, pit))
    return found


@pytest.mark.parametrize("positives", [False, True])
def test_algorithm1(world, positives):
    made = pairs(world, world.build("algorithm1", *["--positives"] * positives))
    expected = Counter()
    for problem, text, pit in blamed(world, positives):
        if any(other != text for other in world.of(problem, "correct")):
            expected[problem, "".join(world.steps(text)[: pit + 1])] += 1
    assert Counter({(p, rejected): n for (p, _, _, rejected), n in made.items()}.keys()) == Counter(expected.keys())
    assert made.total() == expected.total() > 10
    for problem, shared, chosen, rejected in made:
        assert shared == ""
        assert chosen in world.of(problem, "correct")
        assert chosen != rejected


def test_algorithm1_with_the_teacher_s_solution(world):
    made = pairs(world, world.build("algorithm1", "--chosen_teacher"))
    taught = {problem.id for problem in PROBLEMS if problem.solution}
    expected = Counter(
        (problem, "", "teach\n#### 2|", "".join(world.steps(text)[: pit + 1]))
        for problem, text, pit in blamed(world)
        if problem in taught
    )
    assert made == expected


@pytest.mark.parametrize(
    "flags", [(), ("--rejected_rest",), ("--rejected_rest", "--same_step"), ("--positives", "--rejected_rest")]
)
def test_shared_prefix(world, flags):
    made = pairs(world, world.build("shared-prefix", *flags))
    expected = {}
    for problem, text, pit in blamed(world, "--positives" in flags):
        steps = world.steps(text)
        shared, step = "".join(steps[:pit]), steps[pit]
        rejected = "".join(steps[pit:]) if "--rejected_rest" in flags else step
        right = [
            made for made, outcome, _ in world.rollouts[problem, shared]
            if outcome == "correct" and ("--same_step" in flags or not made.startswith(step))
        ]  # fmt: skip
        if right:
            expected.setdefault((problem, shared, rejected), []).append(set(right))
    assert made.total() <= sum(map(len, expected.values()))
    # Pairs whose two sides came out equal are the only ones that may be missing.
    if "--same_step" not in flags:
        assert made.total() == sum(map(len, expected.values())) > 5
    for problem, shared, chosen, rejected in made:
        assert any(chosen in right for right in expected[problem, shared, rejected])


def test_siblings(world):
    made = pairs(world, world.build("siblings", "--min_rollouts", 2, "--min_gap", 0.25))
    expected = {}
    for (problem, prefix), rolled in world.rollouts.items():
        through = defaultdict(list)
        for text, outcome, _ in rolled:
            through[world.steps(text)[0]].append((text, outcome))
        for step in through:
            for text, outcome, _ in world.rollouts.get((problem, prefix + step), ()):
                through[step].append((step + text, outcome))
        # The answers' own next steps, valued by the rollouts after them; the last by the outcome.
        ended = {}
        for (which, _), (text, outcome) in world.traces.items():
            steps = world.steps(text)
            for i, step in enumerate(steps):
                if (which, "".join(steps[:i])) != (problem, prefix):
                    continue
                if step not in through:
                    after = world.rollouts.get((problem, prefix + step), ())
                    through[step] = [(step + text, outcome) for text, outcome, _ in after]
                if i == len(steps) - 1:
                    ended[step] = Fraction(outcome == "correct")
                if outcome == "correct":
                    through[step].append((text.removeprefix(prefix), "own"))
        q = {
            step: Fraction(sum(outcome == "correct" for _, outcome in counted), len(counted))
            for step, some in through.items()
            if len(counted := [one for one in some if one[1] != "own"]) >= 2
        } | ended
        if len(q) > 1 and max(q.values()) - min(q.values()) >= 0.25:
            best = {
                text
                for step in q
                if q[step] == max(q.values())
                for text, outcome in through[step]
                if outcome in ("correct", "own")
            }
            worst = {step for step in q if q[step] == min(q.values())}
            expected[problem, prefix] = best, worst
    assert {(problem, shared) for problem, shared, _, _ in made} == set(expected)
    assert made.total() == len(expected) > 10
    for problem, shared, chosen, rejected in made:
        best, worst = expected[problem, shared]
        assert chosen in best
        assert rejected in worst


def test_step_rft_filters_the_teacher_s_solutions_too(tokenizers, tmp_path):
    """And they come into no other arm: `algorithm1` never chooses one unless asked to."""
    world = World(tokenizers["character"], tmp_path, solutions=True)
    world.write()
    rows = world.build("step-rft", "--with_solutions", "--drop_share", 0.25)
    ranked = sorted(world.least(problem, text) for (problem, _), (text, _) in world.traces.items())
    assert len(rows) == len(ranked) - len(ranked) // 4
    taught = [row for row in rows if row["from"] == "teacher"]
    edge = ranked[len(ranked) // 4 - 1]
    wanted = {p for (p, i), (text, _) in world.traces.items() if i < 0 and world.least(p, text) > edge}
    assert wanted <= {row["problem"] for row in taught} != set()
    assert len(world.build("step-rft", "--drop_share", 0)) == sum(sample >= 0 for _, sample in world.traces)
    assert all(row["chosen_from"] != "teacher" for row in world.build("algorithm1"))
    assert all(row["from"] != "teacher" for row in world.build("advantage-weighted"))


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize("correct_only", [False, True])
def test_step_rft_drops_the_answers_with_the_least_advantage(world, share, correct_only):
    ranked = sorted(
        (world.least(problem, text), problem, text)
        for (problem, _), (text, outcome) in world.traces.items()
        if outcome == "correct" or not correct_only
    )
    dropped = math.floor(share * len(ranked))
    flags = ["--drop_share", share, *["--correct_only"] * correct_only]
    if dropped == len(ranked):
        with pytest.raises(AssertionError):
            world.build("step-rft", *flags)
        return
    sets = []
    for seed in (0, 1):
        rows = world.build("step-rft", *flags, "--seed", seed)
        kept = {(row["problem"], world.text(row["response_ids"])) for row in rows}
        assert len(rows) == len(kept) == len(ranked) - dropped
        edge = ranked[dropped - 1][0] if dropped else Fraction(-2)
        surely = {(problem, text) for least, problem, text in ranked if least > edge}
        perhaps = {(problem, text) for least, problem, text in ranked if least == edge}
        assert surely <= kept <= surely | perhaps
        assert all(row["least_advantage"] == round(float(world.least(*key_of(world, row))), 4) for row in rows)
        sets.append(kept)
    # The seed decides between equals.
    assert (sets[0] != sets[1]) == bool(0 < share < 1 and surely != sets[0])


def key_of(world: World, row: dict) -> tuple[str, str]:
    return row["problem"], world.text(row["response_ids"])


def exponential(advantage):
    return min(math.exp(float(advantage) / 0.25), 2.5)


def signed(advantage):
    return min(max(float(advantage) / 0.25, -2.5), 2.5)


@pytest.mark.parametrize(("kind", "weigh"), [("exp", exponential), ("advantage", signed)])
@pytest.mark.parametrize("normalise", ["none", "answer", "set"])
def test_advantage_weights(world, normalise, kind, weigh):
    flags = ["--beta", 0.25, "--max_weight", 2.5, "--normalise", normalise, "--weights", kind]
    rows = world.build("advantage-weighted", *flags)
    assert Counter(key_of(world, row) for row in rows) == Counter((p, t) for (p, _), (t, _) in world.traces.items())
    weights, tokens = {}, {}
    for key in (key_of(world, row) for row in rows):
        weights[key] = [weigh(a) for a in world.advantages(*key)]
        tokens[key] = [len(world.ids(step)) for step in world.steps(key[1])]
    negative = sum(w < 0 for some in weights.values() for w in some)
    assert (negative > 0) == (kind == "advantage")
    total = sum(abs(w) * n for key in weights for w, n in zip(weights[key], tokens[key], strict=True))
    for row in rows:
        key = key_of(world, row)
        mine = sum(abs(w) * n for w, n in zip(weights[key], tokens[key], strict=True)) / sum(tokens[key])
        of_all = total / sum(map(sum, tokens.values()))
        over = {"none": 1.0, "answer": mine, "set": of_all}[normalise] or 1.0
        assert row["weights"] == pytest.approx([w / over for w in weights[key]], abs=2e-6)
        assert row["advantages"] == [round(float(a), 4) for a in world.advantages(*key)]
        assert [b - a for a, b in zip([0, *row["step_ends"]], row["step_ends"], strict=False)] == tokens[key]


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_prm_labels(world, labels):
    expected = {key: world.q(key[0], text)[1:] for key, (text, _) in world.traces.items()}
    rows = world.build("prm", "--labels", labels)
    assert len(rows) == len(expected)
    for row in rows:
        key = (row["problem"], int(row["from"].removeprefix("answer ")))
        text, q = world.traces[key][0], expected[key]
        assert row["completions"] == world.steps(text.rstrip("|"))
        assert row["labels"] == ([after > 0 for after in q] if labels == "hard" else [float(after) for after in q])
    for row in world.build("prm", "--labels", labels, "--form", "openrlhf"):
        key = (row["problem"], int(row["from"].removeprefix("answer ")))
        question = next(problem.question for problem in PROBLEMS if problem.id == key[0])
        steps = world.steps(world.traces[key][0].rstrip("|"))
        assert row["input"] == TASK.prompt(question) + "".join(f"{step}ки" for step in steps)
        hard = ["+" if after > 0 else "-" for after in expected[key]]
        assert row["value"] == (hard if labels == "hard" else [float(after) for after in expected[key]])


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece", "straddling", "character"])
def test_texts_of_a_prompt_and_its_steps_join_to_that_of_the_whole(tokenizers, kind):
    tokenizer = tokenizers[kind]
    text = ["Question: how many?\nAnswer:\n", "He has 3 apples.\n", "And 4 more.\n", "#### 7"]
    prompt, *steps = (tokenizer(part)["input_ids"] for part in text)
    ids = [*(token for step in steps for token in step), tokenizer.eos_token_id]
    ends = [len(steps[0]), len(steps[0] + steps[1]), len(ids)]
    made = Prm(tokenizer=tokenizer)._texts(prompt, ids, ends)
    assert "".join(made) == tokenizer.decode([*prompt, *ids[:-1]])
    assert [part.strip() for part in made] == [part.strip() for part in text]


@pytest.mark.parametrize("per_problem", [1, 2])
def test_spurious_sets_have_the_size_of_the_clean_one(world, per_problem):
    def build(*flags) -> dict[str, list[dict]]:
        by_problem = defaultdict(list)
        for row in world.build("spurious", "--per_problem", per_problem, *flags):
            by_problem[row["problem"]].append(row)
        return by_problem

    clean = build("--share", 0)
    for problem in PROBLEMS:
        assert len(clean[problem.id]) == min(per_problem, len(world.of(problem.id, "correct")))
    assert not any(row["spurious"] for rows in clean.values() for row in rows)
    low, recovered = build(), build("--seeding", "recovered")
    for problem, rows in clean.items():
        assert len(low[problem]) == len(recovered[problem]) == len(rows)
        least = lambda some: sorted(world.least(*key_of(world, row)) for row in some)  # noqa: E731
        assert all(a <= b for a, b in zip(least(low[problem]), least(rows), strict=True))
        assert all(key_of(world, row)[1] in world.of(problem, "correct") for row in low[problem])
        for row in recovered[problem]:
            text = world.text(row["response_ids"])
            if not row["spurious"]:
                assert text in world.of(problem, "correct")
                continue
            assert row["response"] == text.rstrip("|")
            (answer,) = [t for (p, i), (t, _) in world.traces.items() if row["from"] == f"answer {i} and a rollout" and p == problem]  # fmt: skip # noqa: E501
            lost = world.advantages(problem, answer)
            begins = {"".join(world.steps(answer)[: i + 1]): loss for i, loss in enumerate(lost[:-1]) if loss < 0}
            went_on = {
                b: loss for b, loss in begins.items() if any(o == "correct" for _, o, _ in world.rollouts[problem, b])
            }
            (begun,) = [b for b in went_on if text.startswith(b) and went_on[b] == min(went_on.values())][:1]
            assert any(begun + made == text and outcome == "correct" for made, outcome, _ in world.rollouts[problem, begun])  # fmt: skip # noqa: E501
    assert any(row["spurious"] for rows in low.values() for row in rows)
    assert any(row["spurious"] for rows in recovered.values() for row in rows)


def edits(a: str, b: str) -> int:
    """Characters to insert, delete or replace, by the textbook's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, above = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def far(a: str, b: str) -> Fraction:
    a, b = a.rstrip("|"), b.rstrip("|")
    return Fraction(2 * edits(a, b), len(a) + len(b))


@pytest.mark.parametrize("per_problem", [-1, 1])
def test_pairs_of_the_highest_edit_distance(world, per_problem):
    made = pairs(world, world.build("dpo-edit-distance", "--per_problem", per_problem))
    by_problem = defaultdict(list)
    for problem, shared, chosen, rejected in made:
        assert shared == ""
        by_problem[problem].append((chosen, rejected))
    for problem in (problem.id for problem in PROBLEMS):
        right, all_ = world.of(problem, "correct"), world.of(problem)
        wrong = [text for text in all_ if text not in right]
        best = sorted((max(far(chosen, text) for chosen in right) for text in wrong), reverse=True) if right else []
        kept = best if per_problem < 0 else best[:per_problem]
        assert sorted((far(*pair) for pair in by_problem[problem]), reverse=True) == kept
        assert all(chosen in right and rejected in wrong for chosen, rejected in by_problem[problem])


def test_subsets_nest_and_sizes_are_exact(world):
    def keys(*flags) -> list[tuple[str, str]]:
        return [key_of(world, row) for row in world.build("rft", *flags)]

    whole = keys()
    assert [keys("--size", size) for size in (3, 7)] == [whole[:3], whole[:7]]
    with pytest.raises(AssertionError):
        keys("--size", len(whole) + 1)
    few, more = (set(keys("--problems", count)) for count in (4, 9))
    assert few < more < set(whole)
    assert len({problem for problem, _ in few}) <= 4
    assert more == {key for key in whole if key[0] in {problem for problem, _ in more}}
    # The same problems whatever the arm.
    taught = {row["problem"] for row in world.build("sft", "--problems", 4)}
    assert taught <= {problem for problem, _ in few} | {p.id for p in PROBLEMS if not world.of(p.id, "correct")}
    assert keys("--seed", 1) != whole
    assert set(keys("--seed", 1)) == set(whole)
    counts = Counter(problem for problem, _ in keys("--per_problem", 2, "--balanced"))
    assert set(counts.values()) == {2}
    assert set(counts) == {p.id for p in PROBLEMS if len(world.of(p.id, "correct")) >= 2}


def test_problems_of_a_test_set_are_left_out_and_counted(world, tmp_path):
    """World's questions are runs of question marks, which are no words; here they have some."""
    questions = [
        "How many apples has Ann?",
        "How much is 3 + 4?",
        "Tom has 5 pens and buys 7 more. How many pens now?",
    ]
    rows = [{"question": question, "answer": f"So.\n#### {i}"} for i, question in enumerate(questions)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tests = {"small": "how MANY apples has Ann", "other": "Sue has 9 pens and buys 7 more. What is left?"}
    for name, question in tests.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": question, "answer": "#### 1"}))
    words = ["build", "sft", "--task", "gsm8k", "--input", tmp_path, "--output", tmp_path / "set.jsonl"]
    words += ["--decontaminate", tmp_path / "small.jsonl", tmp_path / "other.jsonl"]
    for n, kept in ((13, questions[1:]), (4, questions[1:2]), (6, questions[1:])):
        assert main(list(map(str, [*words, "--ngram", n]))) == 0
        assert sorted(row["prompt"] for row in read(tmp_path / "set.jsonl")) == sorted(map(TASK.prompt, kept))
        card = (tmp_path / "set.jsonl.card.md").read_text()
        assert "| dropped: contaminated_by_small | 1 |" in card
        assert ("| dropped: contaminated_by_other | 1 |" in card) == (n == 4)


def test_validation_takes_whole_problems(world):
    everything = world.build("rft")
    train = world.build("rft", "--validation", 0.25, "--local_dir", world.folder / "hub")
    apart = read(world.folder / "set.validation.jsonl")
    assert not {row["problem"] for row in train} & {row["problem"] for row in apart}
    order = lambda rows: sorted(json.dumps(row) for row in rows)  # noqa: E731
    assert order(train + apart) == order(everything)
    assert 0 < len({row["problem"] for row in apart}) <= 3
    hub = world.folder / "hub"
    assert read(hub / "train.jsonl") == train
    assert read(hub / "validation.jsonl") == apart
    assert (hub / "README.md").read_text() == (world.folder / "set.jsonl.card.md").read_text()


def test_the_card_says_what_the_rows_and_the_answers_are_like(world):
    rows = world.build("algorithm1", "--pit", "lowest_advantage", "--size", 15)
    card = (world.folder / "set.jsonl.card.md").read_text()
    assert card.startswith("---\n")
    assert "size_categories:\n- n<1K" in card.split("---")[1]
    assert "15 rows, arm `algorithm1`" in card
    assert f"negdata build algorithm1 --input {world.folder / 'values'} --output" in card
    assert "- pit: `lowest_advantage`" in card
    outcomes = Counter(outcome for _, outcome in world.traces.values())
    for outcome, count in outcomes.items():
        assert f"\n| {outcome} | {count} |\n" in card
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        lengths = sorted(len(row[name]) for row in rows)
        mean, most = sum(lengths) / 15, lengths[-1]
        assert re.search(rf"\| {name} \| {mean:.1f} \| {lengths[7]} \| \d+ \| {most} \|", card)
    pits = Counter(row["pit"] + 1 for row in rows)
    table = card.split("| step that is blamed | rows |\n| --- | --- |\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| {step} | {pits[step]} |" for step in sorted(pits)]
    made = int(re.search(r"\| made \| (\d+) \|\n\| here \| 15 \|\n\| left out by --size \| (\d+) \|", card)[1])
    assert f"| left out by --size | {made - 15} |" in card
    steps = Counter()
    for (problem, _), (text, _) in world.traces.items():
        # An advantage of 1 is in the last range, which alone holds both its ends.
        steps.update(min(math.floor((a + 1) * 5), 9) for a in world.advantages(problem, text))
    table = card.split("| advantage of a step | steps that went in |\n| --- | --- |\n")[1].split("\n\n")[0]
    assert [int(line.split("|")[2]) for line in table.splitlines()] == [steps[i] for i in range(10)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 * 4 = 12 apples, so 12/2=6.", {"3*4=12", "12/2=6"}),
        ("He pays $1,200 + $300 = $1,500.", {"1200+300=1500"}),
        ("48/2 = <<48/2=24>>24", {"48/2=24"}),
        ("x = 5, and nothing else", set()),
        ("no numbers", set()),
    ],
)
def test_equations_of_an_answer(text, found):
    assert equations(text) == found


def answered(*texts: str) -> Answered:
    traces = [Trace("p", i, None, None, text, "stop", "correct") for i, text in enumerate(texts)]
    return Answered(Problem("p", "?", "1"), "?", None, None, traces)


def kept(arm: Rft, *texts: str) -> tuple[list[str], dict]:
    account = Account(arm.unit)
    rows = [row["response"] for row in arm.rows(answered(*texts), account)]
    assert account.total == len(texts)
    return rows, dict(account.dropped)


def test_what_counts_as_another_right_answer():
    texts = ("1 + 1 = 2", "so 1+1=2", "2 - 0 = 2", "1 + 1 = 2", "two", "zwei", "two")
    assert kept(Rft(distinct="answers"), *texts) == ([*texts[:3], "two", "zwei"], {"duplicate": 2})
    assert kept(Rft(distinct="equations"), *texts) == (["1 + 1 = 2", "2 - 0 = 2", "two", "zwei"], {"duplicate": 3})
    assert kept(Rft(distinct="all"), *texts) == (list(texts), {})
    assert kept(Rft(distinct="all", per_problem=3), *texts) == (list(texts[:3]), {"over_per_problem": 4})
    # One edit in 10 characters is a distance of 0.1, three are 0.3.
    near = ("abcdefghij", "abcdefghiX", "abcdefgXXX")
    assert kept(Rft(distinct="edit_distance"), *near) == ([near[0], near[2]], {"duplicate": 1})
    assert kept(Rft(distinct="edit_distance", min_distance=0.05), *near) == (list(near), {})


def test_the_answers_that_differ_most_are_kept():
    """Of the first six, three: the first; the one farthest from it; then the one whose nearest of both is farthest."""
    texts = ("aaaaaaaa", "aaaaaaab", "bbbbbbbb", "bbbbbbba", "aaaabbbb", "aaaaaabb", "cccccccc")
    arm = Rft(per_problem=3, most_different=True)
    assert kept(arm, *texts) == (["aaaaaaaa", "bbbbbbbb", "aaaabbbb"], {"less_different": 3, "over_per_problem": 1})
    assert kept(arm, *texts[:2]) == (list(texts[:2]), {})


OWN_ARM = str(Path(__file__).with_name("shortest_arm.py"))


def test_an_arm_of_one_s_own_is_a_file_and_its_card_names_its_settings_and_its_content(world, tmp_path, capsys):
    rows = world.build(OWN_ARM, "--count", 2)
    for problem in {row["problem"] for row in rows}:
        right = sorted(len(text.rstrip("|")) for text in world.of(problem, "correct"))
        assert sorted(len(row["response"]) for row in rows if row["problem"] == problem) == right[:2]
    card = (world.folder / "set.jsonl.card.md").read_text()
    assert "- count: `2`" in card
    assert "- arm_file: `" in card
    edited = tmp_path / "edited_arm.py"
    edited.write_text(Path(OWN_ARM).read_text() + "\n# another")
    output = ["--input", str(world.folder / "values"), "--output", str(tmp_path / "set.jsonl")]
    assert main(["build", str(edited), *output]) == 0
    assert "rows" in capsys.readouterr().out
    assert main(["build", str(edited), *output]) == 0
    assert "is complete" in capsys.readouterr().out
    edited.write_text(Path(OWN_ARM).read_text())
    assert main(["build", str(edited), *output]) == 0
    assert "is complete" not in capsys.readouterr().out
    for flags, says in (
        (["--count", "0"], "--count must be at least 1"),
        (["--beta", "2"], "--beta is for advantage"),
    ):
        assert main(["build", OWN_ARM, *output, *flags]) == 2
        assert says in capsys.readouterr().err
    whole = Path(OWN_ARM).read_text()
    for changed, says in (
        ("x = 1", "defines no `arm`"),
        (whole.replace("self, known, account", "self, problem"), "`rows` must take (self, known, account)"),
        (whole.replace('flag(1, "answers a problem", least=1)', "1"), "count is no flag: write `count = flag(1,"),
        (whole.replace("account.", "type(account)(None)."), "and counted none: call account.keep and account.drop"),
    ):
        (tmp_path / "other.py").write_text(changed)
        assert main(["build", str(tmp_path / "other.py"), *output]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os\nclass Mine(:\n", ":2: the arm file cannot be run: SyntaxError: invalid syntax"),
        ("import no_such_module_here\n", ":1: the arm file cannot be run: ModuleNotFoundError: No module named"),
        ("raise SystemExit(0)\n", ":1: the arm file cannot be run: SystemExit: 0"),
    ],
)
def test_an_arm_file_that_cannot_be_run_is_named_by_its_line(tmp_path, capsys, code, says):
    (tmp_path / "broken.py").write_text(code)
    assert main(["build", str(tmp_path / "broken.py"), "--output", str(tmp_path / "set.jsonl")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"negdata build: error: {tmp_path / 'broken.py'}{says}")
    assert told.count("\n") == 1


def test_an_arm_file_that_was_edited_within_a_second_is_the_edited_one(tmp_path):
    """Python's import would take what it compiled before: a file of this size and time."""
    file = tmp_path / "mine.py"
    for count in (1, 2):
        file.write_text(Path(OWN_ARM).read_text().replace("flag(1,", f"flag({count},"))
        os.utime(file, (1, 1))
        assert arms.load(str(file))().count == count


def test_the_card_says_all_settings_in_force_and_no_other_arm_s(world):
    world.build("siblings", "--min_rollouts", 2)
    card = (world.folder / "set.jsonl.card.md").read_text()
    assert "- min_gap: `0.3`" in card
    assert "- min_rollouts: `2`" in card
    assert "- pit:" not in card


def test_balance_is_decided_once_a_problem(tokenizers, tmp_path):
    """With two answers a problem asked for, the teacher's solutions of the problems that have them stay."""
    world = World(tokenizers["character"], tmp_path, solutions=True)
    world.write()
    files = ["--input", str(world.folder / "values"), "--output", str(tmp_path / "rft.jsonl")]
    assert main(["build", "rft", *files, "--per_problem", "2", "--balanced", "--with_solutions"]) == 0
    rows = read(tmp_path / "rft.jsonl")
    own = Counter(row["problem"] for row in rows if row["from"] != "teacher")
    taught = {row["problem"] for row in rows if row["from"] == "teacher"}
    assert set(own.values()) == {2}
    assert taught == {problem.id for problem in PROBLEMS if problem.solution} & set(own) != set()


def test_pairs_of_the_theorem_prefer_the_better_step_as_often_as_it_says(world):
    """The label is drawn with chance sigmoid(a - b): over many seeds the better step wins as often as that says."""
    won, expected = 0, 0.0
    for seed in range(60):
        for row in world.build("theorem", "--min_rollouts", 1, "--seed", seed):
            gap = row["q_chosen"] - row["q_rejected"]
            won += gap > 0
            expected += (gap != 0) / (1 + math.exp(-abs(gap)))
    assert won == pytest.approx(expected, abs=4 * math.sqrt(expected) / 2)
    assert expected > 200
