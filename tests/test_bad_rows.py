"""Bad rows of a user's own files: named by file and line, or left out, counted and listed; none is lost silently."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openrlhf_negdata.cli.main import main

PROBLEMS = [
    {"id": f"p{i}", "question": f"{i} + 1?", "gold": str(i + 1), "solution": f"#### {i + 1}"} for i in range(3)
]
ANSWERS = [
    {"problem": f"p{i % 3}", "response": f"{i}\n#### {i % 3 + i % 2}", "outcome": "correct" if i % 2 else "wrong"}
    for i in range(9)
]


def line(row: object) -> bytes:
    return json.dumps(row).encode()


#: A line of problems.jsonl, its reason, and what the error says of it.
BAD_PROBLEMS = [
    (b"{", "malformed", "Expecting property name"),
    (b"[1]", "malformed", "not a JSON object"),
    (b"[" * 100_000, "malformed", "nested too deeply"),
    (line({"question": "?"}), "malformed", "no field 'answer'"),
    (line({"question": "?", "gold": "many"}), "malformed", "the gold answer 'many' is not a number"),
    (line({"id": "p1", "question": "again?", "gold": "1"}), "duplicate_id", "two problems have the id 'p1'"),
    (b'{"question": "\xff?", "gold": "1"}', "not_utf8", "not UTF-8: 'utf-8' codec can't decode byte 0xff"),
    (b'{"question": "\\ud83d?", "gold": "1"}', "not_utf8", "not UTF-8: 'utf-8' codec can't encode"),
]
GOOD = {"problem": "p0", "response": "#### 1", "outcome": "correct"}
BAD_ANSWERS = [
    (b'{"problem": "p0"', "malformed", "Expecting"),
    (b"null", "malformed", "not a JSON object"),
    (line({"response": "#### 1", "outcome": "correct"}), "malformed", "no field 'problem'"),
    (line({"problem": "p0", "outcome": "correct"}), "malformed", "no field 'response'"),
    (line(GOOD | {"response": 1}), "malformed", "response is 1, not text"),
    (line(GOOD | {"response": ["a", "b"]}), "malformed", "response is a list of 2, and one of outcome"),
    (line({"problem": "p0", "response": "#### 1"}), "unlabelled", "run `negdata grade` on the file first"),
    (line(GOOD | {"outcome": None}), "unlabelled", "run `negdata grade` on the file first"),
    (line(GOOD | {"outcome": "right"}), "unknown_outcome", "outcome 'right' is none of correct, wrong"),
    (line(GOOD | {"problem": "p9"}), "unknown_problem", "no problem has the id 'p9'"),
    (line({"question": "9?", "response": "a", "outcome": "wrong"}), "unknown_problem", "no problem asks '9?'"),
    (line(GOOD | {"response": " \n"}), "empty", "response is empty"),
    (line(GOOD | {"response": ["a", ""], "outcome": ["wrong", "wrong"]}), "empty", "response is empty"),
    (line(GOOD | {"response": [], "outcome": []}), "empty", "response is an empty list"),
    (line(GOOD)[:-1] + b', "more": "\xe9"}', "not_utf8", "not UTF-8: 'utf-8' codec can't decode byte 0xe9"),
]


def write(folder: Path, problems: list[bytes], answers: list[bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in (("problems", problems), ("traces", answers)):
        (folder / f"{name}.jsonl").write_bytes(b"".join(row + b"\n" for row in rows))
    return folder


def build(folder: Path, output: Path, *flags: object, arm: str = "rft") -> int:
    words = ["build", arm, "--task", "gsm8k", "--input", folder, "--output", output, *flags]
    return main(list(map(str, words)))


def read(path: Path) -> list[dict]:
    return [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]


def accounts(output: Path) -> dict[str, dict[str, int]]:
    """Every table of the card that says what went in; each adds up."""
    card = output.with_name(f"{output.name}.card.md").read_text(encoding="utf-8")
    found = {}
    for unit, table in re.findall(r"^\| ([^|]+) \| count \|\n\| --- \| --- \|\n((?:\|.*\n)+)", card, re.M):
        counts = {what: int(count) for what, count in re.findall(r"^\| ([^|]+) \| (\d+) \|$", table, re.M)}
        if "in" in counts:
            assert counts["in"] == sum(counts.values()) - counts["in"]
            found[unit] = counts
    return found


@pytest.mark.parametrize(
    ("name", "bad"),
    [("problems", bad) for bad in BAD_PROBLEMS] + [("traces", bad) for bad in BAD_ANSWERS],
    ids=lambda value: value if isinstance(value, str) else value[2],
)
def test_the_first_bad_row_ends_the_build_with_one_line(tmp_path, capsys, name, bad):
    content, _, says = bad
    files = {"problems": [line(row) for row in PROBLEMS], "traces": [line(row) for row in ANSWERS]}
    files[name].insert(2, content)
    files[name].append(b"{")
    folder = write(tmp_path / "own", files["problems"], files["traces"])
    assert build(folder, tmp_path / "set.jsonl") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"negdata build: error: {folder}/{name}.jsonl:3: malformed row: ")
    assert says in told
    assert told.endswith("(--skip_bad_rows leaves such rows out)\n")
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_bad_rows_are_left_out_counted_by_reason_and_listed_by_line(tmp_path, capsys):
    problems = [line(row) for row in PROBLEMS] + [b""] + [content for content, _, _ in BAD_PROBLEMS]
    answers = [content for content, _, _ in BAD_ANSWERS] + [line(row) for row in ANSWERS]
    folder = write(tmp_path / "own", problems, answers)
    output = tmp_path / "set.jsonl"
    assert build(folder, output, "--skip_bad_rows") == 0
    first = len(PROBLEMS) + 2
    assert read(tmp_path / "set.jsonl.dropped.jsonl") == [
        {"file": f"{folder}/problems.jsonl", "line": i, "reason": reason}
        for i, (_, reason, _) in enumerate(BAD_PROBLEMS, start=first)
    ] + [
        {"file": f"{folder}/traces.jsonl", "line": i, "reason": reason}
        for i, (_, reason, _) in enumerate(BAD_ANSWERS, start=1)
    ]
    counted = accounts(output)
    for unit, kept, bad in (
        ("rows of problems.jsonl", 3, BAD_PROBLEMS),
        ("rows of traces.jsonl", 9, BAD_ANSWERS),
    ):
        dropped = Counter(f"dropped: {reason}" for _, reason, _ in bad)
        assert counted[unit] == {"in": kept + len(bad), "kept": kept, **dropped}
    assert counted["answers"]["in"] == 9
    told = capsys.readouterr().out
    assert "24 rows of traces.jsonl in, 9 kept, dropped {'empty': 3, 'malformed': 6, 'not_utf8': 1," in told
    assert build(write(tmp_path / "clean", *map(lines_of, (PROBLEMS, ANSWERS))), tmp_path / "clean.jsonl") == 0
    assert output.read_bytes() == (tmp_path / "clean.jsonl").read_bytes()
    assert not (tmp_path / "clean.jsonl.dropped.jsonl").exists()


def lines_of(rows: list[dict]) -> list[bytes]:
    return [line(row) for row in rows]


def test_a_list_of_an_earlier_set_does_not_outlive_it(tmp_path):
    folder = write(tmp_path / "own", lines_of(PROBLEMS), [*lines_of(ANSWERS), b"{"])
    assert build(folder, tmp_path / "set.jsonl", "--skip_bad_rows") == 0
    assert len(read(tmp_path / "set.jsonl.dropped.jsonl")) == 1
    write(folder, lines_of(PROBLEMS), lines_of(ANSWERS))
    assert build(folder, tmp_path / "set.jsonl", "--skip_bad_rows") == 0
    assert read(tmp_path / "set.jsonl.dropped.jsonl") == []
    assert build(folder, tmp_path / "set.jsonl") == 0
    assert not (tmp_path / "set.jsonl.dropped.jsonl").exists()


def test_where_every_row_is_bad_the_error_says_so(tmp_path, capsys):
    assert build(write(tmp_path / "own", [b"{", b"["], []), tmp_path / "set.jsonl", "--skip_bad_rows") == 2
    assert "problems.jsonl: no problems in it: each of its 2 rows is bad" in capsys.readouterr().err
    folder = write(tmp_path / "own", lines_of(PROBLEMS), [line({"problem": "p0", "response": "a"})])
    assert build(folder, tmp_path / "set.jsonl", "--skip_bad_rows") == 2
    assert "has no traces.jsonl with graded answers: all rows of it are bad ({'unlabelled': 1})" in (
        capsys.readouterr().err
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(BAD_PROBLEMS)), max_size=5),
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(BAD_ANSWERS)), max_size=8),
)
def test_good_rows_among_bad_ones_are_those_of_the_clean_files(tmp_path, bad_problems, bad_answers):
    """Bad lines are put in anywhere, blank ones before them."""
    clean, output = tmp_path / "clean.jsonl", tmp_path / "set.jsonl"
    if not clean.exists():
        build(write(tmp_path / "clean", lines_of(PROBLEMS), lines_of(ANSWERS)), clean)
    # A duplicate is the later one of the two, so it comes after the problem whose id it takes.
    bad_problems = [(max(at, 2) if bad[1] == "duplicate_id" else at, bad) for at, bad in bad_problems]
    problems, expected = mixed(PROBLEMS, bad_problems)
    answers, more = mixed(ANSWERS, bad_answers)
    assert build(write(tmp_path / "own", problems, answers), output, "--skip_bad_rows") == 0
    assert output.read_bytes() == clean.read_bytes()
    listed = read(tmp_path / "set.jsonl.dropped.jsonl")
    assert [(Path(row["file"]).name, row["line"], row["reason"]) for row in listed] == [
        *(("problems.jsonl", *bad) for bad in expected),
        *(("traces.jsonl", *bad) for bad in more),
    ]
    counted = accounts(output)
    assert counted["rows of problems.jsonl"]["in"] == len(PROBLEMS) + len(bad_problems)
    assert counted["rows of traces.jsonl"]["in"] == len(ANSWERS) + len(bad_answers)


def mixed(good: list[dict], bad: list) -> tuple[list[bytes], list[tuple[int, str]]]:
    """The good rows with bad lines before the ones they are numbered by, and where those are."""
    content, where = [], []
    for i in range(len(good) + 1):
        for at, (row, reason, _) in bad:
            if at == i:
                content += [b" ", row]
                where.append((len(content), reason))
        content += lines_of(good[i : i + 1])
    return content, where


def test_a_row_may_hold_several_responses_and_name_its_problem_by_its_question(tmp_path):
    rows = [
        {
            "question": "1 + 1?",
            "response": ["#### 2", "#### 3"],
            "outcome": ["correct", "wrong"],
            "answer": ["2", "3"],
        },
        {"problem": "p1", "response": "so #### 2", "outcome": "correct"},
        {"question": "0 + 1?", "response": ["#### 1"], "outcome": ["correct"]},
    ]
    folder = write(tmp_path / "own", lines_of(PROBLEMS), lines_of(rows))
    assert build(folder, tmp_path / "set.jsonl", "--skip_bad_rows") == 0
    assert sorted((row["problem"], row["from"], row["response"]) for row in read(tmp_path / "set.jsonl")) == [
        ("p0", "answer 0", "#### 1"),
        ("p1", "answer 0", "#### 2"),
        ("p1", "answer 2", "so #### 2"),
    ]
    counted = accounts(tmp_path / "set.jsonl")
    assert counted["rows of traces.jsonl"] == {"in": 3, "kept": 3}
    assert counted["answers"] == {"in": 4, "kept": 3, "dropped: wrong": 1}


def test_a_question_that_two_problems_ask_names_neither(tmp_path, capsys):
    problems = [*PROBLEMS, PROBLEMS[0] | {"id": "twin"}]
    rows = [{"question": "0 + 1?", "response": "#### 1", "outcome": "correct"}]
    assert build(write(tmp_path / "own", lines_of(problems), lines_of(rows)), tmp_path / "set.jsonl") == 2
    assert "traces.jsonl:1: malformed row: the problems p0, twin ask '0 + 1?'" in capsys.readouterr().err


def test_problems_may_lie_elsewhere(tmp_path, capsys):
    folder, output = tmp_path / "own", tmp_path / "set.jsonl"
    write(folder, lines_of(PROBLEMS), lines_of(ANSWERS))
    assert build(folder, tmp_path / "inside.jsonl") == 0
    assert build(folder, output, "--problems_from", "any.jsonl") == 2
    assert "--problems_from any.jsonl: " in capsys.readouterr().err
    (folder / "problems.jsonl").rename(tmp_path / "elsewhere.jsonl")
    assert build(folder, output) == 2
    assert "own/problems.jsonl (--problems_from says where else they are)" in capsys.readouterr().err
    flags = ("--problems_from", tmp_path / "elsewhere.jsonl")
    assert build(folder, output, *flags) == 0
    assert output.read_bytes() == (tmp_path / "inside.jsonl").read_bytes()
    capsys.readouterr()
    assert build(folder, output, *flags) == 0
    assert capsys.readouterr().out == f"{output} is complete\n"
    # Other problems in the same place are another set.
    (tmp_path / "elsewhere.jsonl").write_bytes(b"\n".join(lines_of([*PROBLEMS, {"question": "9?", "gold": "9"}])))
    assert build(folder, output, *flags) == 0
    assert "is complete" not in capsys.readouterr().out
    # Solutions are problems' own: no folder is needed.
    words = ["build", "sft", "--task", "gsm8k", "--output", str(tmp_path / "sft.jsonl")]
    assert main([*words, *map(str, flags)]) == 0
    assert len(read(tmp_path / "sft.jsonl")) == 3
    assert main(words) == 2
    assert "--input FOLDER is needed" in capsys.readouterr().err
    assert main(["build", "rft", *words[2:], *map(str, flags)]) == 2
    assert "elsewhere.jsonl has no traces.jsonl with graded answers" in capsys.readouterr().err


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizers, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("character")
    tokenizers["character"].save_pretrained(folder)
    return folder


def rows_table(output: Path) -> dict[str, int]:
    card = output.with_name(f"{output.name}.card.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| rows \| count \|\n\| --- \| --- \|\n((?:\|.*\n)+)", card, re.M)
    return {what: int(count) for what, count in re.findall(r"^\| ([^|]+) \| (\d+) \|$", table, re.M)}


@pytest.mark.parametrize("arm", ["sft", "rft", "dpo", "dpo-edit-distance"])
def test_rows_over_max_len_are_left_out_and_counted_before_size(tmp_path, tokenizer_folder, arm):
    """A token is a character here, so that the limit can be counted by eye."""
    answers = [row | {"response": "x" * i + row["response"]} for i, row in enumerate(ANSWERS * 3)]
    folder = write(tmp_path / "own", lines_of(PROBLEMS), lines_of(answers))
    output = tmp_path / "set.jsonl"
    flags = ("--tokenizer", tokenizer_folder)
    assert build(folder, tmp_path / "all.jsonl", *flags, arm=arm) == 0
    every = read(tmp_path / "all.jsonl")
    assert "left out: over_long" not in rows_table(tmp_path / "all.jsonl")

    def tokens(row: dict) -> int:
        sides = [row[f"{name}_ids"] for name in ("response", "chosen", "rejected") if f"{name}_ids" in row]
        return len(row["prompt_ids"]) + max(map(len, sides))

    limit = sorted(map(tokens, every))[len(every) // 2]
    fitting = [row for row in every if tokens(row) <= limit]
    over = len(every) - len(fitting)
    assert build(folder, output, *flags, "--data.max_len", limit, arm=arm) == 0
    assert sorted(map(line, read(output))) == sorted(map(line, fitting))
    assert rows_table(output) == {"made": len(every), "here": len(fitting), "left out: over_long": over}
    assert build(folder, output, *flags, "--data.max_len", limit, "--size", 1, arm=arm) == 0
    table = rows_table(output)
    assert table.pop("left out by --size", 0) == len(fitting) - 1
    assert table == {"made": len(every), "here": 1, "left out: over_long": over}
    assert build(folder, output, *flags, "--data.max_len", limit, "--validation", 0.34, arm=arm) == 0
    table = rows_table(output)
    assert table.pop("made") == sum(table.values()) == len(every)
    assert table["in the file for validation"] == len(read(tmp_path / "set.validation.jsonl"))


def test_max_len_needs_ids_and_leaves_something(tmp_path, tokenizer_folder, capsys):
    folder = write(tmp_path / "own", lines_of(PROBLEMS), lines_of(ANSWERS))
    for flags, says in (
        (("--data.max_len", 10), "--data.max_len needs token ids: give --tokenizer"),
        (("--data.max_len", 0), "--data.max_len must be -1 or at least 1, not 0"),
        (("--data.max_len", 1, "--tokenizer", tokenizer_folder), "no row is left for rft (dropped: {"),
    ):
        assert build(folder, tmp_path / "set.jsonl", *flags) == 2
        told = capsys.readouterr().err
        assert says in told
    assert "'over_long': 4" in told
    assert not (tmp_path / "set.jsonl").exists()
