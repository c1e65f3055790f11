"""The index from the paper to the code names what is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.(?:py|sh)(?:::[\w.]+)?)`", PAGE)))


def defined(body: list[ast.stmt], names: list[str]) -> bool:
    """Whether a function or class of that dotted name is defined in ``body``."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in body if isinstance(node, kinds) and node.name == names[0]]
    return bool(found) and (len(names) == 1 or defined(found[0].body, names[1:]))


@pytest.mark.parametrize("named", NAMED)
def test_what_the_index_names_is_there(named):
    file, _, name = named.partition("::")
    path = ROOT / file if file.startswith(("recipes/", "tests/")) else ROOT / "openrlhf_negdata" / file
    assert path.is_file()
    assert not name or defined(ast.parse(path.read_text(encoding="utf-8")).body, name.split("."))


def test_the_index_has_every_equation_figure_and_arm_of_the_paper():
    assert len(NAMED) > 25
    rows = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ")]
    wanted = ["equation 3", "equation 4", "Algorithm 1", "Theorem 6.1"]
    wanted += ["2a, 2b", "2c", "3", "4", "5a, 5b", "5c", "7", "8a", "8b, 8c", "9", "10", "11"]
    assert [row for row in wanted if row not in rows] == []
    arms = {path.stem for path in (ROOT / "openrlhf_negdata" / "datasets" / "arms").glob("[a-z]*.py")}
    assert {arm for arm in arms if f"arms/{arm}.py" not in PAGE} == {"prm"}  # not the paper's
