"""upstream/: the diff for OpenRLHF applies to the installed release, is as short as its README says, and passes.

All of it happens in a copy, by other processes: nothing of the patched OpenRLHF is imported here.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

UPSTREAM = Path(__file__).parents[1] / "upstream"
DIFF = UPSTREAM / "step_advantage.diff"
EXPERIENCE_MAKER = "openrlhf/trainer/ppo_utils/experience_maker.py"


def changes():
    """Of every file of the diff: the lines that it adds, and those that it takes away."""
    made = {}
    for part in re.split(r"(?m)^diff --git ", DIFF.read_text(encoding="utf-8"))[1:]:
        name = re.match(r"a/(\S+) ", part)[1]
        body = [line for hunk in re.split(r"(?m)^@@.*$", part)[1:] for line in hunk.splitlines()]
        made[name] = SimpleNamespace(
            added=[line[1:] for line in body if line.startswith("+")],
            removed=[line[1:] for line in body if line.startswith("-")],
        )
    return made


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """A copy of the installed release, its tests among it, with the diff. ``before``: lines of every file of it."""
    tree = tmp_path_factory.mktemp("openrlhf")
    for file in importlib.metadata.distribution("openrlhf").files:
        if file.parts[0] in ("openrlhf", "tests") and file.suffix == ".py":
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), tree / file)
    before = {name: lines(tree / name) for name in changes()}
    run(tree, "git", "apply", DIFF)
    return SimpleNamespace(tree=tree, before=before)


def run(tree, *words):
    # Inside a repository, git would look for the paths from its root.
    environment = os.environ | {"PYTHONPATH": str(tree), "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    done = subprocess.run([*words], cwd=tree, env=environment, capture_output=True, text=True, timeout=300)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-5000:]
    return told


PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "-c", os.devnull]


def test_the_diff_applies_and_all_of_it_compiles(patched):
    run(patched.tree, sys.executable, "-m", "compileall", "-q", "openrlhf", "examples", "tests")
    run(patched.tree, "bash", "-n", "examples/scripts/train_reinforce_step_advantage.sh")


def test_upstreams_own_tests_and_the_diffs_pass(patched):
    told = run(patched.tree, *PYTEST, "--junitxml", "report.xml", "tests")
    report = (patched.tree / "report.xml").read_text(encoding="utf-8")
    names = re.findall(r'classname="tests\.test_step_advantage" name="(\w+)', report)
    written = [line for line in changes()["tests/test_step_advantage.py"].added if line.startswith("def test_")]
    assert set(names) == {re.match(r"def (\w+)", line)[1] for line in written}, told[-2000:]


def test_without_the_change_to_openrlhf_its_tests_fail(patched, tmp_path):
    """What they test is the change, not their own fakes."""
    tree = shutil.copytree(patched.tree, tmp_path / "without")
    run(tree, "git", "apply", "--reverse", "--include", "openrlhf/*", DIFF)
    with pytest.raises(AssertionError) as failed:
        run(tree, *PYTEST, "--tb=no", "tests/test_step_advantage.py")
    for name in ("advantages_reach_the_experience_token_for_token", "what_would_change_only_the_reward_is_refused"):
        assert f"FAILED tests/test_step_advantage.py::test_{name}" in str(failed.value)


def test_the_experience_maker_changes_by_twenty_lines_at_most_and_has_no_new_class():
    change = changes()[EXPERIENCE_MAKER]
    assert 0 < len(change.added) + len(change.removed) <= 20
    assert not any(re.match(r"\s*class ", line) for line in change.added)
    assert all(len(line) <= 119 for file in changes().values() for line in file.added)


def test_the_readme_tells_the_lines_before_and_after(patched):
    rows = re.findall(r"(?m)^\| `(\S+)` \| (\d+) \| (\d+) \| \+(\d+) -(\d+) \|$", (UPSTREAM / "README.md").read_text())
    counted = [
        (name, patched.before[name], lines(patched.tree / name), len(change.added), len(change.removed))
        for name, change in changes().items()
    ]
    assert [(name, *map(int, numbers)) for name, *numbers in rows] == counted
