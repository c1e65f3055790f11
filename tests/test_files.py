"""Files that commands write: nothing but our own is ever replaced, and a command that was killed goes on."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from openrlhf_negdata import files
from openrlhf_negdata.cli.main import main
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import Output, only_writer, replacing, write_jsonl

PROBLEMS = [{"id": str(number), "question": "q", "gold": "1", "solution": "#### 1"} for number in range(3)]
ANSWERS = [{"problem": "0", "gold": "1", "response": "#### 1", "outcome": "correct", "finish_reason": "stop"}]
SETTINGS = {"command": "build", "seed": 0}


def problems(path, count=2):
    return main(
        ["problems", "--task", "running_value", "--split", "syn", "--count", str(count), "--output", str(path)]
    )


def build(folder, output, *flags):
    words = ["build", "rft", "--task", "gsm8k", "--input", folder, "--output", output, *flags]
    return main(list(map(str, words)))


def grade(source, output):
    return main(["grade", "--task", "gsm8k", "--input", str(source), "--output", str(output)])


@pytest.fixture
def own(tmp_path):
    """A folder of one's own, and all that is in it."""
    folder = tmp_path / "own"
    write_jsonl(folder / "problems.jsonl", PROBLEMS)
    write_jsonl(folder / "traces.jsonl", ANSWERS)
    return folder


def told(capsys) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_set_never_takes_the_place_of_its_input_nor_of_a_strangers_file(own, tmp_path, capsys):
    (tmp_path / "notes.jsonl").write_text("mine\n")
    (tmp_path / "set.jsonl.card.md").write_text("mine\n")
    (tmp_path / "set2.validation.jsonl").write_text("mine\n")
    os.link(own / "traces.jsonl", tmp_path / "linked.jsonl")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    for output, says in (
        (own / "traces.jsonl", "is read by this command, and would be replaced: give another --output"),
        (tmp_path / "linked.jsonl", "is read by this command"),
        (tmp_path / "notes.jsonl", "was not made by this command: give another --output, or remove it"),
        (tmp_path / "set.jsonl", "set.jsonl.card.md was not made by this command"),
        (tmp_path / "set2.jsonl", "set2.validation.jsonl was not made by this command"),
    ):
        assert build(own, output) == 2
        assert says in told(capsys)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_the_folder_for_the_hub_never_takes_the_place_of_a_strangers_file(own, tmp_path, capsys):
    """Known before the set is made: a README of one's own, a file where the folder would be, the set's own folder."""
    hub, taken = tmp_path / "hub", tmp_path / "taken"
    hub.mkdir()
    (hub / "README.md").write_text("mine\n")
    taken.write_text("mine\n")
    for folder, says in (
        (hub, "README.md was not made by this command: give another --local_dir, or remove it"),
        (taken, "it is not a folder"),
        (tmp_path / "sets", "is the folder of --output: give another"),
    ):
        assert build(own, tmp_path / "sets" / "set.jsonl", "--local_dir", folder) == 2
        assert says in told(capsys)
        assert not (tmp_path / "sets").exists()
    assert [path.name for path in hub.iterdir()] == ["README.md"]
    assert (hub / "README.md").read_text() == "mine\n"


def test_the_folder_for_the_hub_holds_the_last_set_and_nothing_of_an_earlier_one(own, tmp_path):
    write_jsonl(own / "traces.jsonl", [ANSWERS[0] | {"problem": str(number)} for number in range(3)])
    hub, output = tmp_path / "hub", tmp_path / "set.jsonl"
    assert build(own, output, "--local_dir", hub, "--validation", 0.34) == 0
    assert (hub / "validation.jsonl").is_file()
    assert build(own, output, "--local_dir", hub) == 0
    assert sorted(path.name for path in hub.glob("[!.]*")) == ["README.md", "train.jsonl"]
    assert (hub / "train.jsonl").read_bytes() == output.read_bytes()


@pytest.mark.parametrize("make", [problems, lambda path: grade(path.parent / "answers.jsonl", path)])
def test_other_commands_replace_their_own_file_and_no_other(make, tmp_path, capsys):
    write_jsonl(tmp_path / "answers.jsonl", ANSWERS)
    output = tmp_path / "out.jsonl"
    assert make(output) == 0
    first = output.read_bytes()
    assert make(output) == 0
    assert output.read_bytes() == first
    (tmp_path / ".out.jsonl.settings.json").unlink()
    capsys.readouterr()
    assert make(output) == 2
    assert "was not made by this command" in told(capsys)
    assert output.read_bytes() == first


def test_the_file_of_another_command_is_not_replaced(own, tmp_path, capsys):
    assert problems(tmp_path / "test.jsonl") == 0
    capsys.readouterr()
    assert build(own, tmp_path / "test.jsonl") == 2
    assert "was made by `negdata problems`" in told(capsys)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_never_replaced(kind, tmp_path, capsys):
    output = tmp_path / "out"
    if kind == "pipe":
        os.mkfifo(output)
    elif kind == "folder":
        output.mkdir()
    else:
        output.symlink_to("/dev/null")
    before = output.stat()
    assert problems(output) == 2
    assert "is no regular file" in told(capsys)
    with pytest.raises(UserError, match="is no regular file"), replacing(output):
        pass
    assert output.stat().st_mode == before.st_mode
    assert os.stat("/dev/null").st_rdev == os.makedev(1, 3)


def test_standard_output_is_refused_by_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert problems("-") == 2
    assert "standard output is not written to" in told(capsys)
    assert not list(tmp_path.iterdir())


def test_a_link_goes_on_pointing_to_the_file_that_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with replacing(tmp_path / "link") as file:
        file.write("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "x"


#: A process that is killed, as kill -9 does it, while it writes a file that it has claimed.
KILLED = """
import os, signal, sys
from openrlhf_negdata.files import Output, replacing
output = Output(sys.argv[1], {"command": "build", "seed": 0})
output.claim()
with replacing(output.path) as file:
    file.write("x")
    if sys.argv[2] == "within":
        os.kill(os.getpid(), signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["within", "after"])
def test_a_command_that_was_killed_is_run_again_and_what_it_left_is_cleared(when, tmp_path):
    path = tmp_path / "out"
    assert subprocess.run([sys.executable, "-c", KILLED, path, when]).returncode == -9
    assert len(list(tmp_path.glob(".out.*.tmp"))) == (when == "within")
    (tmp_path / ".other.1.tmp").write_text("another command's")
    output = Output(path, SETTINGS)
    assert not output.complete
    output.claim()
    assert [left.name for left in tmp_path.glob(".*.tmp")] == [".other.1.tmp"]
    write_jsonl(path, [])
    output.commit()
    assert Output(path, SETTINGS).complete
    assert not Output(path, SETTINGS | {"seed": 1}).complete


def test_a_set_whose_card_is_gone_is_not_complete(own, tmp_path, capsys):
    assert build(own, tmp_path / "set.jsonl") == 0
    (tmp_path / "set.jsonl.card.md").unlink()
    capsys.readouterr()
    assert build(own, tmp_path / "set.jsonl") == 0
    assert "is complete" not in capsys.readouterr().out
    assert (tmp_path / "set.jsonl.card.md").is_file()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_a_command_says_so_once_and_goes_on(code, tmp_path, capsys, monkeypatch):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    left = tmp_path / ".out.1.tmp"
    left.write_text("perhaps of a process that is at it")
    only_writer(tmp_path / ".lock", ["*"])
    only_writer(tmp_path / ".lock", ["*"])
    assert "no locks on this file system" in told(capsys)
    assert left.exists()


def test_another_error_of_the_lock_is_not_passed_over(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"):
        only_writer(tmp_path / ".lock")
    assert (tmp_path / ".lock").resolve() not in files._held


def test_a_stamp_that_cannot_be_read_makes_no_file_ours(tmp_path):
    (tmp_path / "out").write_text("x")
    for stamp in ("", "[]", '{"files": ["out"]}', json.dumps([SETTINGS])):
        (tmp_path / ".out.settings.json").write_text(stamp)
        with pytest.raises(UserError, match="was not made by this command"):
            Output(tmp_path / "out", SETTINGS)
