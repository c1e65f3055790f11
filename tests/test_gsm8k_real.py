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


@pytest.fixture(scope="session")
def answers(tmp_path_factory) -> Path:
    """The folder that docs/gsm8k.md makes of published model solutions: problems, answers and graded traces."""
    work = tmp_path_factory.mktemp("answers")
    (block,) = re.findall(r"```python\n(# convert.py .*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    (work / "convert.py").write_text(block, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["convert.py", str(DATA / "model_solutions.jsonl"), str(work / "answers")])
        runpy.run_path(str(work / "convert.py"))
    folder = work / "answers"
    negdata("grade", "--task", "gsm8k", "--input", folder / "answers.jsonl", "--output", folder / "traces.jsonl")
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizers, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizers["byte_bpe"].save_pretrained(folder)
    return folder


def test_every_grade_agrees_with_the_published_label(answers):
    published, graded = read(DATA / "model_solutions.jsonl"), read(answers / "traces.jsonl")
    assert len(graded) == len(published) == 150
    for row, was in zip(graded, published, strict=True):
        assert row["response"] == was["solution"]
        assert (row["outcome"] == "correct") == was["is_correct"], row
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
