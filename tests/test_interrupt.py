"""Ctrl-C, as a terminal sends it: to every process of the command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openrlhf_negdata.cli.main import main

SLOW = Path(__file__).with_name("slow_task.py")


def alive(session):
    """The processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(") ")[2].split()[:4]
        except OSError:
            continue
        found += [stat.parent.name] if int(of) == session and state != "Z" else []
    return found


def interrupted(words, when, watched, log):
    """Exit status and words of a command that is interrupted when ``when`` stands in the file ``watched``."""
    watched.touch()
    with log.open("w") as told:
        command = [sys.executable, "-m", "openrlhf_negdata.cli.main", *map(str, words)]
        running = subprocess.Popen(command, stdout=told, stderr=told, start_new_session=True)
        try:
            end = time.monotonic() + 120
            while when not in watched.read_text() and running.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            os.killpg(running.pid, signal.SIGINT)
            status, end = running.wait(60), time.monotonic() + 30
            while alive(running.pid) and time.monotonic() < end:
                time.sleep(0.2)
            assert alive(running.pid) == []
        finally:
            for left in alive(running.pid):
                os.kill(int(left), signal.SIGKILL)
    return status, log.read_text()


@pytest.mark.parametrize("while_it", ["grades", "starts_an_engine"])
def test_ctrl_c_is_one_line_and_status_130_and_leaves_no_process(tiny_model, tmp_path, monkeypatch, while_it):
    log, shown = tmp_path / "log", tmp_path / "shown"
    if while_it == "grades":
        monkeypatch.setenv("SHOWN", str(shown))  # the slow task writes there what it grades
        rows = [{"gold": "nap", "response": "nap"}] * 200
        (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["grade", "--task", SLOW, "--input", tmp_path / "answers.jsonl"]
        when, watched = "nap", shown
    else:
        problems = ["problems", "--task", "running_value", "--split", "test", "--count", "4"]
        assert main([*problems, "--output", str(tmp_path / "problems.jsonl")]) == 0
        words = ["sample", "--task", "running_value", "--problems", tmp_path / "problems.jsonl"]
        words += ["--model.model_name_or_path", tiny_model]
        when, watched = "Started a local Ray instance", log
    status, told = interrupted([*words, "--output", tmp_path / "out"], when, watched, log)
    assert when in watched.read_text()
    assert status == 130
    assert told.endswith(f"\nnegdata {words[0]}: interrupted; run the same command again to go on\n")
    assert "Traceback" not in told
