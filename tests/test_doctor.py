"""`negdata doctor`."""

import subprocess
import sys
from importlib import metadata

import pytest

from openrlhf_negdata.cli import doctor
from openrlhf_negdata.cli.main import main


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """Makes the named programs, and the interpreter's own folder, all there is on PATH; a program prints its text."""

    def make(**programs):
        monkeypatch.setenv("PATH", str(tmp_path))
        for name, text in programs.items():
            program = tmp_path / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\necho '{text}'\n", encoding="utf-8")
            program.chmod(0o755)

    return make


def report(capsys, status):
    """What `negdata doctor` prints, and by name the commands that mend what is wrong."""
    if status:
        with pytest.raises(SystemExit) as end:
            main(["doctor"])
        assert end.value.code == status
    else:
        assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    mends = text.partition("To mend:\n")[2].splitlines()
    return text, {name.strip(): command.strip() for name, command in zip(mends[::2], mends[1::2], strict=True)}


def test_a_host_that_is_set_up_has_nothing_to_mend():
    # A busy machine may be short of memory or of disk: that says nothing about the command.
    wrong = [finding for finding in doctor.examine() if finding.mend and finding.name not in ("memory", "disk")]
    assert wrong == []


def test_nothing_to_mend_is_status_0(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "MEMORY", 0)
    monkeypatch.setattr(doctor, "DISK", 0)
    text, mends = report(capsys, 0)
    assert text.endswith("All is well.\n")
    assert mends == {}
    for found in ("python", "openrlhf", "torch", "deepspeed", "ray", "transformers", "datasets", "math-verify"):
        assert f"ok    {found} " in text


def test_missing_compiler_is_named_with_the_command_that_mends_it(tools, capsys):
    tools(apt_get="")
    text, mends = report(capsys, 1)
    assert "MEND  g++" in text
    assert mends["g++"].removeprefix("sudo ") == "apt-get install -y g++"


def test_missing_compiler_without_a_package_manager_that_we_know(tools, capsys):
    tools()
    assert report(capsys, 1)[1]["g++"].startswith("conda install ")


def test_package_of_another_release_or_missing_is_named_with_both_releases(monkeypatch, capsys):
    monkeypatch.setitem(doctor.PINS, "deepspeed", "0.0.1")
    monkeypatch.setitem(doctor.PINS, "no-such-package", "1.0")
    text, mends = report(capsys, 1)
    assert f"{metadata.version('deepspeed')}, 0.0.1 wanted" in text
    assert mends["deepspeed"].endswith(" -m pip install deepspeed==0.0.1")
    assert "not installed, 1.0 wanted" in text
    assert mends["no-such-package"].endswith(" -m pip install no-such-package==1.0")


def test_cuda_host_is_asked_for_cuda_builds_and_not_for_a_compiler(tools, capsys):
    if not metadata.version("torch").endswith("+cpu"):
        pytest.skip("torch is not the CPU build here")
    tools(nvidia_smi="NVIDIA H200")
    text, mends = report(capsys, 1)
    assert "NVIDIA H200" in text
    assert "a build without CUDA, on a machine that has it" in text
    assert "'openrlhf[vllm]==0.11.2'" in mends["vllm"]
    assert "flash-attn" in mends
    assert "g++" not in mends


def test_pins_are_those_of_openrlhf():
    required = [requirement.split(";")[0].replace(" ", "") for requirement in metadata.requires("openrlhf")]
    pinned = dict(requirement.split("==") for requirement in required if "==" in requirement)
    pinned = {name.split("[")[0]: release for name, release in pinned.items()}
    for name in ("deepspeed", "ray", "transformers", "vllm"):
        assert doctor.PINS[name] == pinned[name]


def test_it_imports_neither_torch_nor_vllm():
    code = (
        "import sys\n"
        "from openrlhf_negdata.cli.main import main\n"
        "try:\n"
        "    main(['doctor'])\n"
        "finally:\n"
        "    print(sorted({'torch', 'vllm', 'ray', 'deepspeed', 'transformers'} & {*sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
