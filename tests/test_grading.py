"""Grading: one grade a row in order, whatever a grader does."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_negdata.grading import LONGEST_RESPONSE, grade_rows
from openrlhf_negdata.tasks import CORRECT, WRONG, Graded, Task, load

# Its exact value has more digits than there are atoms to write them with; no signal interrupts the attempt.
HANGS = r"\boxed{5^{5^{5^{5^{5}}}}}"


@dataclass
class Slow(Task):
    """Right is what equals gold; some responses misbehave. ``shown`` is a file: a line for each response graded."""

    name: str = "slow"
    shown: str = field(default=os.devnull)
    slow_grader = True

    def grade(self, gold: str, response: str) -> Graded:
        with open(self.shown, "a") as file:
            file.write(f"{len(response)}\n")
        if response == "raise":
            raise SystemExit("no")
        if response == "die":
            os._exit(9)
        if response == "modules":
            return Graded(CORRECT, str("torch" in sys.modules))
        return Graded(CORRECT if gold == response else WRONG, response)


class Failing(Slow):
    slow_grader = False

    def grade(self, gold: str, response: str) -> Graded:
        raise ZeroDivisionError


def outcomes(task: Task, rows: list, **options) -> list[str]:
    return [graded.outcome for graded in grade_rows(task, rows, **options)]


def test_a_row_that_hangs_is_timed_out_within_its_limit_and_the_others_are_graded():
    start = time.monotonic()
    rows = [
        ("1/2", r"\boxed{0.5}", None),
        ("5", HANGS, "stop"),
        ("5", r"\boxed{6}", "stop"),
        ("5", r"\boxed{5.0}", ""),
    ]
    assert outcomes(load("math"), rows, timeout=2, workers=2) == ["correct", "timed_out", "wrong", "correct"]
    assert time.monotonic() - start < 8


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_a_truncated_response_is_never_right_and_not_shown_to_the_grader(name):
    rows = [("5", r"\boxed{5}", "length"), ("5", r"\boxed{5}", "stop"), ("5", HANGS, "length")]
    assert outcomes(load(name), rows, workers=1) == ["truncated", "correct", "truncated"]


def test_a_grader_that_raises_or_dies_has_timed_out_and_the_others_are_graded(caplog):
    rows = [("a", "a", None), ("a", "raise", None), ("a", "die", None), ("a", "b", None), ("b", "b", None)]
    assert outcomes(Slow(), rows, workers=2) == ["correct", "timed_out", "timed_out", "wrong", "correct"]
    assert "gave up" in caplog.text
    assert outcomes(Failing(), [("a", "a", None)]) == ["timed_out"]


@settings(max_examples=10, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("abc"), st.sampled_from(["stop", "length", None])),
        max_size=300,
    )
)
def test_one_grade_a_row_in_order(rows):
    expected = ["truncated" if end == "length" else "correct" if gold == said else "wrong" for gold, said, end in rows]
    assert outcomes(Slow(), rows, workers=2) == expected


def test_equal_work_is_done_once_and_a_long_response_is_shown_from_its_end(tmp_path):
    shown = tmp_path / "shown"
    rows = [("a", "a", None)] * 400 + [("a", "x" * 100_000, None)]
    assert outcomes(Slow(shown=str(shown)), rows, workers=2) == ["correct"] * 400 + ["wrong"]
    assert sorted(map(int, shown.read_text().split())) == [1, LONGEST_RESPONSE]


def test_rows_are_taken_as_they_are_needed():
    taken = []

    def rows():
        for number in range(10_000):
            taken.append(number)
            yield "a", str(number), None

    graded = grade_rows(Slow(), rows(), workers=1)
    next(graded)
    assert len(taken) < 100
    graded.close()


def test_tasks_and_grading_import_nothing_heavy_nor_do_the_workers():
    code = (
        "import sys, openrlhf_negdata.grading; from openrlhf_negdata.tasks import BUILT_IN, load; "
        "tasks = [load(name) for name in BUILT_IN]; "
        "print(*{'torch', 'vllm', 'ray', 'openrlhf', 'transformers'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
    )
    if "torch" not in sys.modules:
        assert next(grade_rows(Slow(), [("a", "modules", None)], workers=1)).answer == "False"


def test_a_worker_does_not_outlive_a_command_that_was_killed():
    code = (
        "import os, threading; from openrlhf_negdata.grading import grade_rows; "
        "from openrlhf_negdata.tasks import load; task = load('math'); "
        "threading.Timer(0.7, lambda: os.kill(os.getpid(), 9)).start(); "
        f"list(grade_rows(task, [('5', {HANGS!r}, None)], timeout=1.5, workers=1))"
    )
    # The worker holds the pipe open: communicate returns when it is gone.
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.communicate(timeout=20)
    assert process.returncode == -9
