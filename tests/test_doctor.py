"""`negdata doctor`."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

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
    # A machine may be short of memory or of disk, and its processor an old one: that says nothing about the command.
    of_the_machine = ("memory", "disk", "processor")
    wrong = [finding for finding in doctor.examine() if finding.mend and finding.name not in of_the_machine]
    assert wrong == []


def test_nothing_to_mend_is_status_0(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "MEMORY", 0)
    monkeypatch.setattr(doctor, "DISK", 0)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
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


def test_readme_and_make_install_the_same_on_a_gpu_host():
    """flash-attn's build finds torch only where that is there first and builds are not isolated."""
    root = Path(__file__).parents[1]
    tools = '"setuptools>=77" wheel packaging psutil ninja'
    readme, make = ((root / name).read_text() for name in ("README.md", "requirements/install.sh"))
    assert f"pip install torch=={doctor.PINS['torch']} {tools}\n" in readme
    assert f"torch=={doctor.PINS['torch']}" in re.findall(
        r"^torch==[\d.]+", (root / "requirements/cpu.txt").read_text(), re.M
    )
    for text in (readme, make):
        first, second = (line.strip() for line in text.splitlines() if tools in line or '".[gpu' in line)
        assert tools in first
        assert second.startswith("pip install --no-build-isolation -e ")


def test_a_gpu_that_torch_does_not_see_is_said_with_what_hides_it(tools, capsys, monkeypatch):
    """The commands ask torch: what nvidia-smi lists beyond that, they will not use."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU here")
    tools(nvidia_smi="NVIDIA H200")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    text, mends = report(capsys, 1)
    assert "MEND  device " in text
    assert "torch sees no CUDA device, nvidia-smi lists NVIDIA H200: everything runs on the CPU" in text
    assert mends["device"].startswith("install torch's build with CUDA")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    text, mends = report(capsys, 1)
    assert "nvidia-smi lists NVIDIA H200 (CUDA_VISIBLE_DEVICES is ''): everything runs on the CPU" in text
    assert mends["device"] == "unset CUDA_VISIBLE_DEVICES"


def test_what_torch_sees_is_the_device_whatever_nvidia_smi_lists(tools, monkeypatch):
    """A container without nvidia-smi; some of a node's GPUs alone."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: "NVIDIA H200")
    for listed, says in (
        ({}, "NVIDIA H200"),
        ({"nvidia_smi": "NVIDIA H200"}, "NVIDIA H200"),
        (
            {"nvidia_smi": "NVIDIA H200\nNVIDIA H100"},
            "torch sees NVIDIA H200, nvidia-smi lists NVIDIA H200, NVIDIA H100",
        ),
    ):
        tools(**listed)
        found = {finding.name: finding for finding in doctor.examine()}
        assert found["device"].mend == ""
        assert found["device"].found.startswith(says)
        assert "flash-attn" in found
        assert "g++" not in found


def test_torch_that_is_installed_and_cannot_be_imported_is_to_be_installed_anew(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    text, mends = report(capsys, 1)
    assert "torch cannot be imported" in text
    index = "https://download.pytorch.org/whl/cpu"
    assert mends["device"].endswith(f" -m pip install -I --index-url {index} torch=={doctor.PINS['torch']}")


def test_a_processor_without_avx_512_is_said_to_be_slow_in_bfloat16():
    """Of torch itself: it is told to use no more than AVX2, as it does on a processor that has no more."""
    command = [sys.executable, "-m", "openrlhf_negdata.cli.main", "doctor"]
    done = subprocess.run(command, env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}, capture_output=True, text=True)
    assert "AVX2, no AVX-512: keep to float32, the default; bfloat16 is some 40 times as slow" in done.stdout


def test_it_imports_no_engine_and_no_trainer():
    code = (
        "import sys\n"
        "from openrlhf_negdata.cli.main import main\n"
        "try:\n"
        "    main(['doctor'])\n"
        "finally:\n"
        "    print(sorted({'vllm', 'ray', 'deepspeed', 'transformers'} & {*sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
