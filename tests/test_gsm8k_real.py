"""Real data, by the commands of docs/gsm8k.md: problems of GSM8K, and published model solutions with their labels."""

import json
import re
import runpy
import shutil
from collections import Counter
from pathlib import Path

import pytest

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.tasks import load

DATA = Path(__file__).with_name("data") / "gsm8k"
DOC = Path(__file__).parents[1] / "docs" / "gsm8k.md"


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def accounted(path: Path) -> dict[str, int]:
    card = path.with_name(f"{path.name}.card.md").read_text(encoding="utf-8")
    table = {what: int(n) for what, n in re.findall(r"^\| (in|kept|dropped: \w+) \| (\d+) \|$", card, re.M)}
    assert table["in"] == sum(table.values()) - table["in"], "in = kept + dropped by reason"
    assert f"\n# {path.name}\n\n{len(read(path))} rows" in card
    return table


def negdata(*words: object) -> None:
    assert main(list(map(str, words))) == 0


@pytest.fixture(scope="session")
def syn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gsm8k") / "gsm8k"
    folder.mkdir()
    shutil.copy(DATA / "problems.jsonl", folder / "problems.jsonl")
    return folder


def convert(published: Path, work: Path) -> Path:
    """The folder that docs/gsm8k.md makes of published model solutions: problems, answers and graded traces."""
    (block,) = re.findall(r"```python\n(# convert.py .*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    (work / "convert.py").write_text(block, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["convert.py", str(published), str(work / "answers")])
        runpy.run_path(str(work / "convert.py"))
    folder = work / "answers"
    negdata("grade", "--task", "gsm8k", "--input", folder / "answers.jsonl", "--output", folder / "traces.jsonl")
    return folder


@pytest.fixture(scope="session")
def answers(tmp_path_factory) -> Path:
    """150 of the published solutions, put back into the form they are published in."""
    work, problems = tmp_path_factory.mktemp("answers"), {}
    for row in read(DATA / "model_solutions.jsonl"):
        whole = problems.setdefault(row["problem_index"], {key: row[key] for key in ("question", "ground_truth")})
        whole[row["model"]] = {"is_correct": row["is_correct"], "solution": row["solution"]}
    (work / "published.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems.values()))
    return convert(work / "published.jsonl", work)


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizers, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizers["byte_bpe"].save_pretrained(folder)
    return folder


def test_every_grade_agrees_with_the_published_label(answers):
    published, graded = read(DATA / "model_solutions.jsonl"), read(answers / "traces.jsonl")
    assert len(graded) == len(published) == 150
    labels = {(row["ground_truth"].rpartition("A: ")[2], row["solution"]): row["is_correct"] for row in published}
    for row in graded:
        assert (row["outcome"] == "correct") == labels[row["gold"], row["response"]] == row["published"], row
        assert row["outcome"] in ("correct", "wrong", "no_answer")


def test_every_solution_of_the_teacher_becomes_a_row(syn, tokenizer_folder, tokenizers, tmp_path):
    published = read(syn / "problems.jsonl")
    negdata("build", "sft", "--task", "gsm8k", "--input", syn, "--output", tmp_path / "text.jsonl")
    assert accounted(tmp_path / "text.jsonl") == {"in": 60, "kept": 60}
    rows = {row["prompt"]: row for row in read(tmp_path / "text.jsonl")}
    for problem in published:
        row = rows[f"Question: {problem['question']}\nAnswer:\n"]
        assert row["response"] == problem["answer"]
        assert "response_ids" not in row
    with_ids = ("--tokenizer", tokenizer_folder, "--output", tmp_path / "ids.jsonl")
    negdata("build", "sft", "--task", "gsm8k", "--input", syn, *with_ids)
    assert accounted(tmp_path / "ids.jsonl") == {"in": 60, "kept": 60}
    tokenizer = tokenizers["byte_bpe"]
    for row in read(tmp_path / "ids.jsonl"):
        assert tokenizer.decode(row["prompt_ids"]) == row["prompt"]
        assert tokenizer.decode(row["response_ids"]) == row["response"] + "</s>"
        assert rows[row["prompt"]]["response"] == row["response"]


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_right_answers_become_rft_rows_and_each_answer_is_accounted_for(
    answers, tokenizer_folder, tokenizers, tmp_path, with_tokenizer
):
    output, graded = tmp_path / "rft.jsonl", read(answers / "traces.jsonl")
    flags = ("--tokenizer", tokenizer_folder) if with_tokenizer else ()
    negdata("build", "rft", "--task", "gsm8k", "--input", answers, "--output", output, *flags)
    right = {(row["problem"], row["response"]) for row in graded if row["outcome"] == "correct"}
    rows = read(output)
    assert sorted((row["problem"], row["response"]) for row in rows) == sorted(right)
    dropped = Counter(row["outcome"] for row in graded if row["outcome"] != "correct")
    counts = accounted(output)
    duplicates = counts.pop("dropped: duplicate", 0)
    assert counts == {"in": 150, "kept": len(right), **{f"dropped: {why}": n for why, n in dropped.items()}}
    assert len(right) + duplicates == sum(row["outcome"] == "correct" for row in graded)
    for row in rows:
        assert ("response_ids" in row) == with_tokenizer
        if with_tokenizer:
            assert tokenizers["byte_bpe"].decode(row["response_ids"]) == row["response"] + "</s>"


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_pairs_set_a_right_answer_against_a_wrong_one_of_the_same_problem(
    answers, tokenizer_folder, tmp_path, with_tokenizer
):
    output, task = tmp_path / "dpo.jsonl", load("gsm8k")
    flags = ("--tokenizer", tokenizer_folder) if with_tokenizer else ()
    negdata("build", "dpo", "--task", "gsm8k", "--input", answers, "--output", output, *flags)
    gold = {row["id"]: row["gold"] for row in read(answers / "problems.jsonl")}
    graded = {(row["problem"], row["response"]) for row in read(answers / "traces.jsonl")}
    rows = read(output)
    for row in rows:
        chosen, rejected = row["chosen"].removesuffix("</s>"), row["rejected"].removesuffix("</s>")
        assert {(row["problem"], chosen), (row["problem"], rejected)} <= graded
        assert task.grade(gold[row["problem"]], chosen).outcome == "correct"
        assert task.grade(gold[row["problem"]], rejected).outcome != "correct"
        assert ("chosen_ids" in row) == with_tokenizer
    counts = accounted(output)
    used = {(row["problem"], row[side]) for row in rows for side in ("chosen", "rejected")}
    assert (counts["in"], counts["kept"]) == (150, len(used))
    # Every wrong answer of a problem with a right one is in a pair.
    outcomes: dict[str, set[bool]] = {}
    for row in read(answers / "traces.jsonl"):
        outcomes.setdefault(row["problem"], set()).add(row["outcome"] == "correct")
    mixed = {problem for problem, seen in outcomes.items() if len(seen) == 2}
    assert {row["problem"] for row in rows} == mixed


#: The answers to the problems of example_model_solutions.jsonl, worked out by hand.
BY_HAND = {
    "test-0": 3 * 3 * 60,
    "test-1": 4 * (12 // 3),
    "test-2": 6 * 4 * 5 // 10,
    "test-3": 4 // 2 - 1,
    "test-4": 27 * 2 // 3 // 3,
    "test-5": 2 * (3 + 5) + 2,
    "test-6": 25 * 5 * 3,
    "test-7": 2 * (3 + 5),
    "test-8": 52 - 8 - 28,
    "test-9": 100 + 100 // 5,
}


def says(text: str) -> float:
    """The last number of a solution."""
    return float(re.findall(r"[\d.,]*\d", text)[-1].replace(",", ""))


def edits(a: str, b: str) -> int:
    """Characters to insert, delete or replace: Wagner and Fischer's table, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """All four solutions to ten problems, from the file as it is published."""
    return convert(DATA / "example_model_solutions.jsonl", tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("arm", ["sft", "rft", "dpo", "dpo-edit-distance"])
def test_the_rows_that_were_checked_by_hand_are_among_those_that_are_built(arm, syn, published, tmp_path):
    source, output = syn if arm == "sft" else published, tmp_path / "set.jsonl"
    negdata("build", arm, "--task", "gsm8k", "--input", source, "--output", output)
    golden = (DATA.parent / f"golden_{arm}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(golden) == len(set(golden)) == 10
    assert set(golden) <= set(output.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("arm", ["rft", "dpo", "dpo-edit-distance"])
def test_golden_rows_hold_what_is_right_by_arithmetic(arm):
    for row in read(DATA.parent / f"golden_{arm}.jsonl"):
        assert says(row["response"] if arm == "rft" else row["chosen"]) == BY_HAND[row["problem"]]
        assert arm == "rft" or says(row["rejected"]) != BY_HAND[row["problem"]]


def test_golden_pairs_are_the_farthest_by_a_slow_count_of_edits(published):
    right: dict[str, list[str]] = {}
    for row in read(published / "traces.jsonl"):
        if row["published"]:
            right.setdefault(row["problem"], []).append(row["response"])

    def share(a: str, b: str) -> float:
        return edits(a, b) / (len(a) + len(b))

    for row in read(DATA.parent / "golden_dpo-edit-distance.jsonl"):
        farthest = max(share(other, row["rejected"]) for other in right[row["problem"]])
        assert share(row["chosen"], row["rejected"]) == farthest
