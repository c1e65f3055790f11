"""Checkpoints that a killed run goes on from. OpenRLHF's strategy writes and loads them; here it is decided which."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.trainers import processes
from openrlhf_negdata.trainers.processes import from_rank_0

#: What OpenRLHF puts into a checkpoint once it is written (DeepspeedStrategy.CKPT_METRIC_FILENAME).
METRIC_FILE = "metric.json"


def folder_of(output: Path) -> Path:
    """Where the checkpoints of ``output`` are kept unless told otherwise."""
    return output.with_name(f".{output.name}.ckpt")


def check(path: Path) -> None:
    """Raise unless checkpoints can be kept in ``path``."""
    if path.exists() and not path.is_dir():
        raise UserError(f"--ckpt.path {path} is not a folder")
    names = [inside.name for inside in path.iterdir()] if path.is_dir() else []
    # A run that is killed while it claims the folder leaves .settings.*.tmp alone.
    if any(not name.startswith(".settings") for name in names) and "settings.json" not in names:
        raise UserError(f"{path} is in the way: it holds something other than checkpoints of this command")


def load(args: Any, strategy: Any, model: Any) -> int:
    """Go on from the last checkpoint, if a run with equal settings left one; returns the samples it had consumed."""
    path = Path(args.ckpt.path)
    tag = from_rank_0(lambda: _resumable(path, _settings(args)))
    if tag is None:
        return 0
    _, states = strategy.load_ckpt(model.model, str(path), tag)
    consumed = states["consumed_samples"]
    strategy.print(f"going on from {path / tag} after {consumed} samples")
    return consumed


def _resumable(path: Path, settings: dict[str, Any]) -> str | None:
    """The checkpoint in ``path`` that a run with these settings goes on from; raises where they are another's."""
    if not (path / "settings.json").is_file():
        return None
    made = json.loads((path / "settings.json").read_text(encoding="utf-8"))
    for key, value in settings.items():
        if made.get(key) != value:
            raise UserError(
                f"{path} holds checkpoints made with {key} = {made.get(key)!r}, not {value!r}: give another "
                "--ckpt.path, or remove that folder"
            )
    return last(path)


def _settings(args: Any) -> dict[str, Any]:
    """What a run must share with the checkpoints it goes on from: they are sharded over its processes."""
    return args.settings | {"processes": processes.count()}


def last(path: Path) -> str | None:
    """The folder in ``path`` of the last checkpoint that was written whole.

    DeepSpeed names it in ``latest`` once all of it is written; OpenRLHF then puts a metric file into it. A kill
    between opening and writing ``latest`` (deepspeed/runtime/engine.py:4951) leaves that empty.
    """
    named = (path / "latest").read_text(encoding="utf-8").strip() if (path / "latest").is_file() else ""
    if named and (path / named).is_dir():
        return named
    whole = [folder for folder in path.iterdir() if (folder / METRIC_FILE).is_file()]
    return max(whole, key=lambda folder: folder.stat().st_mtime).name if whole else None


def claim(args: Any) -> None:
    """Mark the checkpoint folder as this run's, so that a run with other settings does not go on from it, and remove
    what a killed save left there: it is newer than the last whole checkpoint, so that OpenRLHF would drop that to make
    room for the next one (utils/deepspeed/deepspeed.py:726)."""
    if args.ckpt.save_steps > 0:
        from_rank_0(lambda: _claim(Path(args.ckpt.path), _settings(args)))


def _claim(path: Path, settings: dict[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    kept = last(path)
    for folder in path.iterdir():
        if folder.is_dir() and folder.name != kept and not (folder / METRIC_FILE).is_file():
            shutil.rmtree(folder)
    temporary = path / f".settings.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    os.replace(temporary, path / "settings.json")
