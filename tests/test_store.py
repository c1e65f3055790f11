"""Run folders: shards appear whole, settings never mix, what goes in comes out."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_negdata.datasets.own import read_solutions
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.records import OUTCOMES, Problem, Rollout, StepValues, Trace
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.tasks import load

PROBLEMS = [Problem("a", "q\n?", "1"), Problem("b", "é 漢", "2", "so\n#### 2")]
SETTINGS = {"task": "gsm8k", "seed": 0, "sampling": {"temperature": 0.7}}

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=6)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
TRACES = st.builds(
    Trace,
    TEXT,
    st.integers(0, 9),
    st.none() | IDS,
    st.none() | IDS,
    TEXT,
    st.sampled_from(["stop", "length", None]),
    st.none() | st.sampled_from(OUTCOMES),
    st.none() | TEXT,
)
ROWS = {
    "traces": TRACES,
    "values": st.builds(StepValues, TEXT, st.integers(0, 9), IDS, IDS, IDS, st.none() | st.integers(0, 9)),
    "rollouts": st.builds(Rollout, TEXT, IDS, IDS, st.sampled_from(OUTCOMES), st.integers(0, 2**32)),
}


def create(path, shards=3, **changed) -> Run:
    run = Run.create(path, "sample", SETTINGS | changed, PROBLEMS)
    if not run.complete:
        run.expect(shards)
    return run


@pytest.mark.parametrize("table", ROWS)
def test_rows_come_back_as_they_were_written_in_order_of_their_shards(table):
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.lists(ROWS[table], max_size=4), min_size=1, max_size=3))
    def check(shards):
        with tempfile.TemporaryDirectory() as folder:
            run = Run.create(Path(folder) / "run", "value", SETTINGS, PROBLEMS)
            run.expect(len(shards))
            for number in reversed(range(len(shards))):
                run.write(table, number, shards[number])
            read = Run.open(run.path, complete=False)
            assert list(read.read(table)) == [row for shard in shards for row in shard]
            for number, shard in enumerate(shards):
                assert list(read.read(table, number)) == shard

    check()


def test_problems_settings_and_counts_come_back(tmp_path):
    create(tmp_path / "run", shards=0).finish({"traces": 3})
    run = Run.open(tmp_path / "run")
    assert run.problems() == PROBLEMS
    assert run.manifest == {
        "command": "sample",
        "settings": SETTINGS,
        "shards": 0,
        "complete": True,
        "counts": {"traces": 3},
    }
    assert run.task() is load("gsm8k")


def test_a_shard_is_there_whole_or_not_at_all(tmp_path):
    run = create(tmp_path / "run")

    def rows():
        yield Trace("a", 0, [1], [2], "", "stop")
        raise RuntimeError("killed")

    before = sorted(run.path.iterdir())
    with pytest.raises(RuntimeError, match="killed"):
        run.write("traces", 0, rows())
    assert sorted(run.path.iterdir()) == before
    with pytest.raises(Exception, match="int"):
        run.write("traces", 0, [Trace("a", 0, ["not a number"], [2], "", "stop")])
    assert sorted(run.path.iterdir()) == before


def test_what_a_killed_write_left_is_no_shard(tmp_path):
    run = create(tmp_path / "run")
    run.write("traces", 1, [Trace("a", 0, [1], [2], "", "stop")])
    (tmp_path / "run" / ".traces-00000.123.tmp").write_bytes(run.shard("traces", 1).read_bytes()[:50])
    (tmp_path / "run" / ".manifest.json.123.tmp").write_text('{"comm')
    del run  # a process that is killed lets go of the run
    again = create(tmp_path / "run")
    assert not again.shard("traces", 0).exists()
    assert len(list(again.read("traces"))) == 1


def test_equal_settings_go_on_and_others_are_refused_by_name(tmp_path):
    create(tmp_path / "run").write("traces", 0, [])
    kept = sorted((path.name, path.read_bytes()) for path in (tmp_path / "run").iterdir())
    assert create(tmp_path / "run").shard("traces", 0).exists()
    for changed, says in (
        ({"seed": 1}, "was made with seed = 0, not 1"),
        (
            {"sampling": {"temperature": 1.0}},
            "was made with sampling = {'temperature': 0.7}, not {'temperature': 1.0}",
        ),
        ({"new": True}, "was made with new = None, not True"),
    ):
        with pytest.raises(UserError, match="give another --output") as raised:
            create(tmp_path / "run", **changed)
        assert says in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="was made with command = 'sample', not 'value'"):
        Run.create(tmp_path / "run", "value", SETTINGS, PROBLEMS)
    with pytest.raises(UserError, match="was started with 3 shards, and its input now gives 4: give another --output"):
        create(tmp_path / "run", shards=4)
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "run").iterdir()) == kept


def test_a_start_that_was_killed_before_its_manifest_is_made_again(tmp_path):
    create(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    assert create(tmp_path / "run").problems() == PROBLEMS


def test_a_folder_of_someone_elses_is_not_written_into(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="it is not a folder"):
        create(tmp_path / "file")
    own = tmp_path / "own"
    own.mkdir()
    (own / "problems.jsonl").write_text('{"question": "mine", "gold": "1"}\n')
    with pytest.raises(UserError, match="holds a problems.jsonl of other problems"):
        create(own)
    assert (own / "problems.jsonl").read_text() == '{"question": "mine", "gold": "1"}\n'
    run = create(tmp_path / "run")
    run.write("traces", 0, [])
    (run.path / "manifest.json").unlink()
    with pytest.raises(UserError, match="holds tables but no manifest.json"):
        create(tmp_path / "run")


def test_a_run_whose_tokenizer_cannot_be_loaded_leaves_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="no tokenizer can be loaded from it"):
        Run.create(tmp_path / "run", "sample", SETTINGS, PROBLEMS, tokenizer_from=tmp_path / "model")
    assert not (tmp_path / "run").exists()


def test_a_torn_shard_is_owed_again_even_of_a_run_that_was_complete(tmp_path, capsys):
    run = create(tmp_path / "run")
    run.expect(3)
    for number in range(3):
        run.write("traces", number, [Trace("a", number, [1], [2], "", "stop")])
    assert run.owed() == []
    run.finish({})
    assert create(tmp_path / "run").complete
    torn, whole = run.shard("traces", 1), run.shard("traces", 1).read_bytes()
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UserError, match=r"is not complete \(1 of 3 shards are owed\): run `negdata sample` on it again"
    ):
        Run.open(tmp_path / "run")
    with pytest.raises(UserError, match="traces-00001.parquet cannot be read .*: run `negdata sample` again"):
        list(run.read("traces"))
    again = create(tmp_path / "run")
    assert (again.complete, again.owed()) == (False, [1])
    assert "traces-00001.parquet cannot be read: it is owed again" in capsys.readouterr().err
    run.shard("traces", 2).unlink()
    assert create(tmp_path / "run").owed() == [1, 2]


#: A program that may write no file larger than 2,000 bytes, as on a disk that is nearly full.
FULL = """
import resource, signal, sys
from openrlhf_negdata.rollouts.store import Run, Trace
run = Run.create(sys.argv[1], "sample", {"task": "gsm8k"}, [])
run.expect(2)
run.write("traces", 0, [Trace("a", 0, [1], [2], "", "stop")])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    run.write("traces", 1, [Trace("a", i, [1], [i] * 99, str(i), "stop") for i in range(2000)])
except OSError as error:
    print(error)
"""


def test_a_full_disk_ends_in_an_error_that_names_it_and_leaves_a_run_that_goes_on(tmp_path):
    ended = subprocess.run([sys.executable, "-c", FULL, tmp_path / "run"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "File too large" in ended.stdout
    run = Run.create(tmp_path / "run", "sample", {"task": "gsm8k"}, [])
    assert run.owed() == [1]
    assert [trace.problem for trace in run.read("traces")] == ["a"]
    assert not list(run.path.glob(".*.tmp"))
    run.write("traces", 1, [])
    assert run.owed() == []


def test_outcomes_and_speed_add_up_over_shards(tmp_path):
    run = create(tmp_path / "run")
    for number, outcomes in enumerate((["correct", "wrong"], ["wrong", None], [])):
        rows = [Trace("a", i, [1], [2], "", "stop", outcome) for i, outcome in enumerate(outcomes)]
        run.write("traces", number, rows, {"seconds": 1.5, "tokens": 10})
    assert run.outcomes("traces") == {"correct": 1, "wrong": 2, None: 1}
    assert run.speed("traces") == {"seconds": 4.5, "tokens": 30}
    assert run.speed("values") == {}


def test_only_a_complete_run_is_read(tmp_path):
    with pytest.raises(UserError, match="is not a run folder: it has no manifest.json"):
        Run.open(tmp_path)
    run = create(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"is not complete \(3 of 3 shards are owed\): run `negdata sample` on it again first"
    ):
        Run.open(run.path)
    (run.path / "manifest.json").write_text('{"command": "sample"}')
    with pytest.raises(UserError, match="manifest.json: not a manifest"):
        Run.open(run.path)


PROBLEM_ROWS = [{"id": "x", "question": "q", "gold": "1"}, {"id": "y", "question": "r", "gold": "2"}]
TRACE_ROW = {"problem": "x", "response": "#### 1", "outcome": "correct", "answer": "1", "finish_reason": "stop"}


def own_folder(path: Path, traces: list) -> Path:
    for name, rows in (("problems", PROBLEM_ROWS), ("traces", traces)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_answers_made_elsewhere_are_numbered_by_problem(tmp_path):
    rows = [TRACE_ROW, {**TRACE_ROW, "problem": "y", "outcome": "wrong"}, {**TRACE_ROW, "response": "#### 2"}]
    problems, traces = read_solutions(own_folder(tmp_path, rows), load("gsm8k"))
    assert [problem.id for problem in problems] == ["x", "y"]
    assert [(t.problem, t.sample, t.text, t.outcome) for t in traces] == [
        ("x", 0, "#### 1", "correct"),
        ("y", 0, "#### 1", "wrong"),
        ("x", 1, "#### 2", "correct"),
    ]
    assert all(t.prompt_ids is None and t.token_ids is None for t in traces)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"problem": "z"}, "no problem has the id 'z'"),
        ({"outcome": "right"}, "outcome 'right' is none of correct, wrong, truncated, no_answer, timed_out, failed"),
        ({"response": None}, "response is None, not text"),
    ],
)
def test_a_bad_row_of_answers_is_named_by_its_line(tmp_path, changed, says):
    with pytest.raises(UserError) as raised:
        read_solutions(own_folder(tmp_path, [TRACE_ROW, TRACE_ROW | changed]), load("gsm8k"))
    assert str(raised.value) == f"{tmp_path}/traces.jsonl:2: malformed row: {says}"


@pytest.mark.parametrize("field", ["problem", "response", "outcome"])
def test_a_row_of_answers_without_a_field_is_named_by_its_line(tmp_path, field):
    row = {key: value for key, value in TRACE_ROW.items() if key != field}
    with pytest.raises(UserError, match=f"traces.jsonl:1: malformed row: no field '{field}'"):
        read_solutions(own_folder(tmp_path, [row]), load("gsm8k"))


def test_a_complete_run_that_lost_its_last_shard_is_not_complete_to_anyone(tmp_path, capsys):
    run = create(tmp_path / "run", shards=2)
    for number in range(2):
        run.write("traces", number, [Trace("a", number, [1], [2], "", "stop", "correct")])
    run.finish({})
    run.shard("traces", 1).unlink()
    says = r"is not complete \(1 of 2 shards are owed\): run `negdata sample` on it again first"
    with pytest.raises(UserError, match=says):
        Run.open(run.path)
    with pytest.raises(UserError, match="traces-00001.parquet cannot be read"):  # to one who has it open, neither
        run.outcomes("traces")
    again = create(run.path, shards=2)
    assert (again.complete, again.owed()) == (False, [1])
    with pytest.raises(UserError, match=r"shards \[1\] went away meanwhile"):
        again.finish({})


def test_a_shard_that_the_manifest_does_not_speak_of_is_never_read(tmp_path):
    run = create(tmp_path / "run", shards=1)
    run.write("traces", 0, [Trace("a", 0, [1], [2], "", "stop", "correct")])
    run.finish({})
    run.shard("traces", 1).write_bytes(run.shard("traces", 0).read_bytes())
    read = Run.open(run.path)
    assert len(list(read.read("traces"))) == read.outcomes("traces").total() == 1
    with pytest.raises(ValueError, match="nobody would read it"):
        run.write("traces", 1, [])


#: A first start that waits, holding the lock, between the problems and the manifest, until the file GO is there.
SLOW_START = """
import sys, time
from pathlib import Path
from openrlhf_negdata.rollouts import store
from openrlhf_negdata.errors import UserError
path, seed, go = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
write = store.write_jsonl
def slow(*args):
    write(*args)
    go.with_suffix(".started").touch()
    while not go.exists():
        time.sleep(0.01)
if seed == 0:
    store.write_jsonl = slow
try:
    run = store.Run.create(path, "sample", {"task": "gsm8k", "seed": seed}, [])
    run.expect(1)
    run.write("traces", 0, [store.Trace(str(seed), 0, [1], [2], "", "stop")])
    print("wrote")
except UserError as error:
    print(error)
"""


def test_two_first_starts_with_other_settings_never_mix(tmp_path):
    path, go = tmp_path / "run", tmp_path / "go"

    def start(seed):
        words = [sys.executable, "-c", SLOW_START, path, str(seed), go]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start(0)
    while not go.with_suffix(".started").exists():
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.01)
    second = start(1)
    assert "waiting for another process" in second.stderr.readline()
    go.touch()
    assert first.communicate()[0] == "wrote\n"
    assert "was made with seed = 0, not 1: give another --output" in second.communicate()[0]
    assert Run.open(path, complete=False).manifest["settings"]["seed"] == 0
    assert [trace.problem for trace in Run.open(path, complete=False).read("traces")] == ["0"]


def test_what_a_killed_command_left_unfinished_is_cleared_by_the_next(tmp_path):
    (tmp_path / "run").mkdir()
    for name in (".traces-00000.123.tmp", ".manifest.json.123.tmp"):
        (tmp_path / "run" / name).write_text("half")
    create(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*.tmp"))


@pytest.mark.parametrize(
    "changed", [{"command": "other"}, {"shards": "many"}, {"shards": None}, {"settings": {}}, {"complete": ...}]
)
def test_a_manifest_that_is_none_is_named(tmp_path, changed):
    manifest = create(tmp_path / "run").manifest | changed
    text = json.dumps({key: value for key, value in manifest.items() if value is not ...})
    (tmp_path / "run" / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="manifest.json: not a manifest"):
        Run.open(tmp_path / "run")
