"""The forms in which data sets are published: each gives the rows that the JSON Lines file of the same rows gives."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from csv import writer
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.datasets.own import read_solutions
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import Reading, read_problems
from openrlhf_negdata.forms import rows_of
from openrlhf_negdata.tasks import load

DATA = Path(__file__).with_name("data") / "gsm8k" / "problems.jsonl"
GSM8K = load("gsm8k")


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path_factory):
    """Nothing here may open a connection; what `datasets` caches goes to a folder of the test's own."""

    def connected(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", connected)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]


def table(rows: list[dict], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def lines(rows: list, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def saved(rows: list[dict], path: Path) -> Path:
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


def saved_splits(rows: list[dict], path: Path) -> Path:
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(path)
    return path


def a_list(rows: list[dict], path: Path) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


FORMS = {
    "jsonl": lambda rows, folder: lines(rows, folder / "a.jsonl"),
    "other suffix": lambda rows, folder: lines(rows, folder / "a.ndjson"),
    "json list": lambda rows, folder: a_list(rows, folder / "a.json"),
    "json lines": lambda rows, folder: lines(rows, folder / "a.json"),
    "parquet": lambda rows, folder: table(rows, folder / "a.parquet"),
    "parquet folder": lambda rows, folder: two_tables(rows, folder),
    "hub layout": lambda rows, folder: table(rows, folder / "main" / "train-00000-of-00001.parquet").parents[1],
    "jsonl folder": lambda rows, folder: lines(rows, folder / "train.jsonl").parent,
    "jsonl.gz": lambda rows, folder: packed(lines(rows, folder / "a.jsonl")),
    "json list.gz": lambda rows, folder: packed(a_list(rows, folder / "a.json")),
    "csv.gz": lambda rows, folder: packed(csv(rows, folder / "a.csv")),
    "gzip by content alone": lambda rows, folder: packed(lines(rows, folder / "a.jsonl")).rename(folder / "b.jsonl"),
    "csv": lambda rows, folder: csv(rows, folder / "a.csv"),
    "tsv": lambda rows, folder: tabs(rows, folder / "a.tsv"),
    "jsonl, marked": lambda rows, folder: marked(lines(rows, folder / "a.jsonl")),
    "json list, marked": lambda rows, folder: marked(a_list(rows, folder / "a.json")),
    "csv, marked": lambda rows, folder: marked(csv(rows, folder / "a.csv")),
    "jsonl.gz, marked": lambda rows, folder: packed(marked(lines(rows, folder / "a.jsonl"))),
    "gz folder": lambda rows, folder: packed(lines(rows, folder / "train.jsonl")).parent,
    "csv folder": lambda rows, folder: csv(rows, folder / "train.csv").parent,
    "save_to_disk": lambda rows, folder: saved(rows, folder / "saved"),
    "save_to_disk, one split": lambda rows, folder: saved_splits(rows, folder / "saved"),
}


def two_tables(rows: list[dict], folder: Path) -> Path:
    table(rows[:25], folder / "0.parquet")
    table(rows[25:], folder / "1.parquet")
    return folder


def csv(rows: list[dict], path: Path) -> Path:
    import datasets

    datasets.Dataset.from_list(rows).to_csv(path)
    return path


def tabs(rows: list[dict], path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        made = writer(file, delimiter="\t")
        made.writerow(rows[0])
        made.writerows(row.values() for row in rows)
    return path


def packed(path: Path) -> Path:
    """The file, packed by gzip, in place of ``path``."""
    made = path.with_name(f"{path.name}.gz")
    made.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return made


def marked(path: Path) -> Path:
    """The file with a byte-order mark, as editors on Windows write it."""
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_problems(rows, tmp_path, form):
    source = FORMS[form](rows, tmp_path)
    assert read_problems(source, GSM8K) == read_problems(DATA, GSM8K)


def math(folder: Path) -> Path:
    """MATH as it is published: train/SUBJECT/NUMBER.json."""
    for name, answer in (("algebra/0", 2), ("algebra/10", 3), ("number_theory/0", 4)):
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"problem": f"{name}?", "level": "Level 1", "type": "Algebra", "solution": f"\\boxed{{{answer}}}"}
        path.write_text(json.dumps(row, indent=1), encoding="utf-8")
    return folder


def test_math_s_published_folders_are_read_and_a_problem_is_named_by_its_path(tmp_path):
    problems = read_problems(math(tmp_path / "train"), load("math"))
    assert [(problem.id, problem.gold) for problem in problems] == [
        ("algebra/0", "2"),
        ("algebra/10", "3"),
        ("number_theory/0", "4"),
    ]
    assert problems[0].question == "algebra/0?"
    assert problems[0].solution == "\\boxed{2}"
    (tmp_path / "train" / "algebra" / "0.json").write_text("{")
    with pytest.raises(UserError, match=r"train/algebra/0\.json:1: malformed row: "):
        read_problems(tmp_path / "train", load("math"))
    reading = Reading(skip_bad_rows=True)
    assert [problem.id for problem in read_problems(tmp_path / "train", load("math"), reading)] == [
        "algebra/10",
        "number_theory/0",
    ]
    assert dict(reading.kept) == {"train": 2}
    assert reading.left_out == [("train", str(tmp_path / "train" / "algebra" / "0.json"), 1, "malformed")]


def test_math_500_is_read_by_its_own_names(tmp_path):
    row = {"problem": "1+1?", "solution": "\\boxed{2}", "answer": "2", "subject": "Algebra", "level": 1}
    path = lines([row | {"unique_id": "test/algebra/1.json"}], tmp_path / "test.jsonl")
    (problem,) = read_problems(path, load("math"))
    assert (problem.id, problem.question, problem.gold) == ("test/algebra/1.json", "1+1?", "2")


def test_splits_are_never_mixed(rows, tmp_path):
    for split in ("train", "test"):
        table(rows, tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
        math(tmp_path / "MATH" / split)
        saved(rows, tmp_path / "both" / split)
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for name in ("hub", "MATH", "both"):
        with pytest.raises(UserError, match="has the splits train, test: give "):
            read_problems(tmp_path / name, GSM8K)
    assert len(read_problems(tmp_path / "MATH" / "test", load("math"))) == 3
    assert len(read_problems(tmp_path / "both" / "test", GSM8K)) == 60


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("json list", "a.json:2: malformed row: no field 'answer'"),
        ("parquet", "a.parquet:2: malformed row: the answer has no '####'"),
        ("parquet folder", "0.parquet:2: malformed row: the answer has no '####'"),
        ("jsonl folder", "train.jsonl:2: malformed row: no field 'answer'"),
        ("csv folder", "train.csv:2: malformed row: the answer has no '####'"),
        ("csv", "a.csv:2: malformed row: the answer has no '####'"),
        ("jsonl.gz", "a.jsonl.gz:2: malformed row: no field 'answer'"),
        ("save_to_disk", "saved:2: malformed row: the answer has no '####'"),
    ],
)
def test_a_bad_row_is_named_by_file_and_number_in_every_form(rows, tmp_path, form, says):
    FORMS[form]([rows[0], {"question": "?"}, *rows[2:]], tmp_path)
    sources = {"parquet folder": "", "jsonl folder": "", "csv folder": "", "save_to_disk": "saved"}
    source = tmp_path / sources.get(form, says.partition(":")[0])
    with pytest.raises(UserError) as raised:
        read_problems(source, GSM8K)
    assert says in str(raised.value)
    assert str(tmp_path) in str(raised.value)
    reading = Reading(skip_bad_rows=True)
    assert len(read_problems(source, GSM8K, reading)) == len(rows) - 1
    assert [(line, reason) for _, _, line, reason in reading.left_out] == [(2, "malformed")]


def test_rows_of_several_files_have_ids_of_their_own(rows, tmp_path):
    table(rows[:2], tmp_path / "0.parquet")
    table(rows[2:5], tmp_path / "1.parquet")
    assert [problem.id for problem in read_problems(tmp_path, GSM8K)] == ["1", "2", "3", "4", "5"]


def test_bytes_that_are_not_utf_8_are_bad_rows_in_parquet_too(tmp_path):
    broken = pa.array([b"1+1?", b"\xff", b"2+2?"]).cast(pa.binary()).view(pa.string())
    golds = pa.array(["2", "3", "4"])
    pq.write_table(pa.table({"question": broken, "gold": golds}), tmp_path / "a.parquet")
    reading = Reading(skip_bad_rows=True)
    assert [problem.gold for problem in read_problems(tmp_path / "a.parquet", GSM8K, reading)] == ["2", "4"]
    assert [(line, reason) for _, _, line, reason in reading.left_out] == [(2, "not_utf8")]


def unreadable(folder: Path) -> dict[str, Path]:
    for name, content in (("a.parquet", "PAR1"), ("a.json", '[{"question": 1'), ("b.json", "[1]")):
        (folder / name).write_text(content)
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(DATA.read_bytes())[:-100])
    (folder / "wide.jsonl").write_text("{}\n", encoding="utf-16")
    (folder / "open.csv").write_text('question,answer\n"1+1?,#### 2\n2+2?,#### 4\n')
    (folder / "twice.csv").write_text("answer,answer\n1,2\n")
    (folder / "more.csv").write_text("question,answer\n1+1?,#### 2,3\n")
    for name in ("none", "state"):
        (folder / name).mkdir()
    (folder / "state" / "state.json").write_text("{}")
    (folder / "far").mkdir()
    (folder / "far" / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: x.jsonl\n---\n")
    return {
        "a.parquet: not a parquet file": folder / "a.parquet",
        "a.json: not JSON": folder / "a.json",
        "b.json:1: malformed row: not a JSON object": folder / "b.json",
        "no such file": folder / "c.parquet",
        "cut.jsonl.gz: gzip cannot unpack it: ": folder / "cut.jsonl.gz",
        "wide.jsonl: it is in UTF-16: save it as UTF-8": folder / "wide.jsonl",
        "open.csv:3: not CSV: ": folder / "open.csv",
        "twice.csv: two of its columns are called 'answer'": folder / "twice.csv",
        "more.csv:1: malformed row: 3 cells below the names of 2 columns": folder / "more.csv",
        "none cannot be loaded as a data set: ": folder / "none",
        "state cannot be loaded as a data set: ": folder / "state",
        "far cannot be loaded as a data set: ": folder / "far",
    }


def test_what_cannot_be_read_is_one_line(tmp_path, capsys):
    for says, source in unreadable(tmp_path).items():
        words = ["build", "sft", "--task", "gsm8k", "--problems_from", source, "--output", tmp_path / "set.jsonl"]
        assert main(list(map(str, words))) == 2
        told = capsys.readouterr().err
        assert says in told
        assert told.count("\n") == 1
    for name in ("hf:", "hf::main"):
        with pytest.raises(UserError, match="write hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT"):
            rows_of(name).__next__()
    assert not (tmp_path / "set.jsonl").exists()


def test_answers_that_are_graded_come_in_every_form_of_a_file(rows, tmp_path):
    """The same rows come out of `grade`, whatever they came in; and a folder of one's own may hold them in any."""
    answers = [{"problem": str(i), "gold": row["answer"], "response": row["answer"]} for i, row in enumerate(rows, 1)]
    expected = None
    for form in ("jsonl", "json list", "parquet", "csv", "tsv", "jsonl.gz", "csv.gz", "jsonl, marked"):
        (tmp_path / form).mkdir()
        source, output = FORMS[form](answers, tmp_path / form), tmp_path / form / "graded"
        assert main(["grade", "--task", "gsm8k", "--input", str(source), "--output", str(output)]) == 0
        expected = expected or output.read_text()
        assert output.read_text() == expected, form
    own = tmp_path / "own"
    own.mkdir()
    table([json.loads(line) for line in expected.splitlines()], own / "traces.parquet")
    packed(lines(rows, own / "problems.jsonl"))
    problems, traces = read_solutions(own, GSM8K)
    assert (len(problems), len(traces), {trace.outcome for trace in traces}) == (60, 60, {"correct"})
    lines(rows, own / "problems.jsonl")
    with pytest.raises(UserError, match=r"problems\.jsonl and problems\.jsonl\.gz: leave one of them there"):
        read_solutions(own, GSM8K)


def test_a_long_cell_of_csv_is_whole(tmp_path):
    (tmp_path / "a.csv").write_text(f'question,gold\n"{"1+" * 100_000}1?",2\n')
    (problem,) = read_problems(tmp_path / "a.csv", GSM8K)
    assert len(problem.question) == 200_002


def test_bytes_of_csv_that_are_not_utf_8_are_bad_rows(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"question,gold\n1+1?,2\n\xff,3\n2+2?,4\n")
    reading = Reading(skip_bad_rows=True)
    assert [problem.gold for problem in read_problems(tmp_path / "a.csv", GSM8K, reading)] == ["2", "4"]
    assert [(line, reason) for _, _, line, reason in reading.left_out] == [(2, "not_utf8")]


def offline(code: str, *words: object, home: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_name_of_the_hub_is_read_from_the_cache_where_there_is_no_network(rows, tmp_path):
    code = "import sys; from openrlhf_negdata.cli.main import main; sys.exit(main(sys.argv[1:]))"
    home = cached(rows, tmp_path)
    for name, status, says in (
        ("hf:me/gsm8k:main:train", 0, "60 rows"),
        ("hf:me/gsm8k:main", 0, "60 rows"),
        ("hf:me/gsm8k:main:train[:10]", 0, "10 rows"),
        ("hf:me/gsm8k:main:test", 2, "hf:me/gsm8k:main:test cannot be loaded as a data set: "),
        ("hf:me/other", 2, "hf:me/other cannot be loaded as a data set: "),
    ):
        output = tmp_path / f"{name.replace('/', '_')}.jsonl"
        words = ["build", "sft", "--task", "gsm8k", "--problems_from", name, "--output", output]
        told = offline(code, *words, home=home)
        assert (told.returncode, says in told.stdout + told.stderr) == (status, True), told.stderr
    card = (tmp_path / "hf:me_gsm8k:main:train.jsonl.card.md").read_text(encoding="utf-8")
    assert '"hf:me/gsm8k:main:train": "' in card


def cached(rows: list[dict], folder: Path) -> Path:
    """A Hugging Face home whose cache holds the data set ``me/gsm8k``, as `datasets` leaves it."""
    import datasets

    file = table(rows, folder / "made" / "train.parquet")
    builder = datasets.load_dataset_builder("parquet", data_files={"train": str(file)})
    builder.download_and_prepare()
    hub = folder / "home" / "datasets" / "me___gsm8k" / "main" / "0.0.0" / "0123456789abcdef"
    shutil.copytree(builder.cache_dir, hub)
    (hub / "parquet-train.arrow").rename(hub / "gsm8k-train.arrow")
    info = json.loads((hub / "dataset_info.json").read_text())
    (hub / "dataset_info.json").write_text(json.dumps(info | {"config_name": "main", "dataset_name": "gsm8k"}))
    return folder / "home"


def test_reading_json_lines_imports_neither_datasets_nor_torch():
    code = (
        "import sys; from openrlhf_negdata.files import read_problems; from openrlhf_negdata.tasks import load;"
        "read_problems(sys.argv[1], load('gsm8k'));"
        "print([name for name in ('datasets', 'torch', 'pyarrow') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code, DATA], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


@pytest.mark.parametrize("form", ["jsonl.gz", "parquet", "json list", "jsonl, marked"])
def test_a_training_set_is_the_same_in_every_form(tmp_path, form):
    """In a table every row has every field; one that a row of JSON lacks holds nothing there."""
    from openrlhf_negdata.trainers.tokens import read_rows

    sides = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]}
    rows = [sides | {"problem": "p1", "weight": 0.5}, sides]
    embeddings = SimpleNamespace(num_embeddings=6)
    model = SimpleNamespace(model=SimpleNamespace(get_input_embeddings=lambda: embeddings))
    source = FORMS[form](rows, tmp_path)
    assert list(read_rows(str(source), ("prompt_ids", "chosen_ids", "rejected_ids"), model)) == rows
