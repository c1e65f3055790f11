"""Grading, building and reporting must work where nothing heavy is installed, and start at once where it is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import openrlhf_negdata

HEAVY = ("torch", "vllm", "ray", "openrlhf", "deepspeed", "transformers")


@pytest.mark.parametrize(
    "room",
    [
        "records",
        "tasks.gsm8k",
        "grading",
        "steps",
        "steps.credit",
        "steps.driver",
        "datasets.build",
        "datasets.arms.siblings",
        "cli.report",
        "cli.build",
        "cli.synthesize",
        "cli.train_ppo_ray",
    ],
)
def test_a_room_imports_nothing_heavy(room):
    code = f"import sys, openrlhf_negdata.{room}; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found == "[]\n"


def test_the_contract_of_split_steps_is_importable():
    from openrlhf_negdata.steps import split_steps

    assert split_steps([], None, None) == []


#: Rooms, each of which may import from those of the rows above it and from its own alone. The modules that lie in the
#: package itself are the first row.
ROOMS = (
    {""},
    {"tasks"},
    {"grading"},
    {"rollouts"},
    {"steps"},
    {"datasets"},
    {"analysis", "synthesis", "trainers"},
    {"ppo"},
    {"cli"},
)
#: Modules of the package itself that stand before all rooms.
OUTER = {"api.py": "cli", "__main__.py": "cli"}
ROW_OF = {room: row for row, rooms in enumerate(ROOMS) for room in rooms}


def imported(file: Path) -> set[str]:
    """The modules of the package that a file imports, wherever in it but for types alone."""
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for node in set(ast.walk(tree)) - {inside for block in types for inside in ast.walk(block)}:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("openrlhf_negdata.")}


def test_imports_go_one_way():
    top = Path(openrlhf_negdata.__file__).parent
    files = [file for file in top.rglob("*.py") if file.parent != top or file.name != "__init__.py"]
    assert len(files) > 50
    wrong = []
    for file in files:
        inside = file.relative_to(top)
        room = inside.parts[0] if len(inside.parts) > 1 else OUTER.get(inside.name, "")
        for name in imported(file):
            other = name.split(".")[1]
            other = other if (top / other).is_dir() else ""
            if other != room and ROW_OF[other] >= ROW_OF[room]:
                wrong.append(f"{inside} imports {name}")
    assert wrong == []
