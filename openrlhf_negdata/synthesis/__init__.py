"""New problems from a stronger model: one seed problem becomes one new problem that is checked, mended and solved."""

from __future__ import annotations

from pathlib import Path

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.tasks import Task

#: The prompts we wrote, a folder a task.
PROMPTS = Path(__file__).with_name("prompts")
#: A prompt is a file NAME.txt, in which {question} stands for the question; no other brace means anything.
STAGES = ("new_problem", "verify", "solve")
PLACEHOLDER = "{question}"


def read_prompts(task: Task, folder: Path | None = None) -> dict[str, str]:
    """The prompt of each stage, from ``folder``, or those we wrote for the task."""
    if folder is None:
        folder = PROMPTS / task.name
        if not folder.is_dir():
            own = ", ".join(sorted(path.name for path in PROMPTS.iterdir()))
            raise UserError(f"there are no prompts for the task {task.name} (only for {own}): give --prompts FOLDER")
    prompts = {}
    for stage in STAGES:
        file = folder / f"{stage}.txt"
        if not file.is_file():
            raise UserError(f"no such prompt: {file} (a folder of prompts holds {', '.join(STAGES)}, each .txt)")
        prompts[stage] = file.read_text(encoding="utf-8", errors="replace").strip()
        if PLACEHOLDER not in prompts[stage]:
            raise UserError(f"{file}: {PLACEHOLDER} is not in it: write it where the question goes")
    return prompts
