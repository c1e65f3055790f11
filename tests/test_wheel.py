"""The wheel, in an environment that has what it declares and nothing else: no torch, no vLLM, no OpenRLHF."""

import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "vllm", "ray", "openrlhf", "deepspeed", "transformers")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the sources: the build leaves its traces there."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    package = ROOT / "openrlhf_negdata"
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder / "made", folder]
    subprocess.run([sys.executable, "-m", "pip", *map(str, build)], check=True, capture_output=True)
    (made,) = (folder / "made").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory) -> Path:
    """The interpreter of an environment with the wheel and what it requires, which is linked and not downloaded."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder)
    python = folder / "bin" / "python"
    install = ["--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", "pip", *map(str, install)], check=True, capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (about,) = packages.glob("openrlhf_negdata-*.dist-info")
    for distribution in required(metadata.PathDistribution(about).requires or []).values():
        for file in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / file).exists():
                (packages / file).symlink_to(distribution.locate_file(file))
    return python


def required(lines: list[str]) -> dict[str, metadata.Distribution]:
    """The distributions that are required, and all that they require."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [(line, "") for line in lines]
    while waiting:
        line, extra = waiting.pop()
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found and not wanted.extras:
            continue
        found[name] = metadata.distribution(wanted.name)
        more = found[name].requires or []
        waiting += [(line, extra) for line in more for extra in ("", *wanted.extras)]
    return found


def test_the_wheel_holds_every_file_of_the_package(wheel):
    package = ROOT / "openrlhf_negdata"
    files = {file.relative_to(ROOT).as_posix() for file in package.rglob("*") if file.is_file()}
    files = {file for file in files if "__pycache__" not in file}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == files


def test_the_wheel_works_without_torch_and_grades_and_imports_the_python_api(clean, tmp_path):
    code = (
        "import importlib.util, openrlhf_negdata.api as api, openrlhf_negdata\n"
        f"print([name for name in {HEAVY} if importlib.util.find_spec(name)])\n"
        "print(all(hasattr(api, name) for name in api.__all__), openrlhf_negdata.__file__)\n"
    )
    done = run(clean, tmp_path, "-c", code)
    assert done.stdout.splitlines()[0] == "[]"
    whole, file = done.stdout.splitlines()[1].split(" ", 1)
    assert (whole, Path(file).is_relative_to(clean.parent.parent)) == ("True", True)
    (tmp_path / "in.jsonl").write_text('{"gold": "18", "response": "#### 18"}\n')
    negdata = str(clean.with_name("negdata"))
    run(clean, tmp_path, negdata, "grade", "--task", "gsm8k", "--input", "in.jsonl", "--output", "out.jsonl")
    assert '"outcome": "correct"' in (tmp_path / "out.jsonl").read_text()


def test_the_page_for_python_users_runs_on_the_wheel(clean, tmp_path):
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    run(clean, tmp_path, "-c", "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))


def run(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Runs where the sources are not found: not from here, and without PYTHONPATH."""
    done = subprocess.run([python, *words], cwd=folder, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done
