"""Puts finished runs of one recipe into docs/results: their figures as JSON, and one page for all seeds.
The table of running_value goes into the README too.

python recipes/quickstart/results.py running_value runs/running_value-seed0 runs/running_value-seed1 ...
python recipes/quickstart/results.py rounds runs/rounds-seed0 runs/rounds-seed1 ...
"""

import json
import statistics
import sys
from pathlib import Path

from openrlhf_negdata.files import replacing, write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
#: How the README names the arms of its table.
README_ARMS = {
    "base": "the base model",
    "sft": "SFT on the teacher's solutions",
    "control": "SFT trained on for as long",
    "rft": "RFT, own correct answers",
    "dpo": "naive DPO pairs",
    "step_dpo_algorithm1": "per-step DPO, `algorithm1`",
    "step_dpo_shared_prefix": "per-step DPO, `shared_prefix`",
    "step_dpo": "**per-step DPO, `siblings`**",
}


def main(task: str, runs: list[str]) -> None:
    seeds = {}
    for run in map(Path, runs):
        summary = json.loads((run / "summary.json").read_text())
        write_json(RESULTS / task / f"{run.name}.json", summary)
        seeds[run.name.rpartition("seed")[2]] = summary
    with replacing(RESULTS / f"{task}.md") as page:
        page.write("\n".join(results(task, seeds)) + "\n")
    print(RESULTS / f"{task}.md")
    if task == "running_value":
        before, begin, rest = (ROOT / "README.md").read_text().partition("<!-- results -->\n")
        _, end, after = rest.partition("<!-- /results -->\n")
        with replacing(ROOT / "README.md") as readme:
            readme.write(before + begin + "\n".join(errors(seeds, "", README_ARMS)) + "\n" + end + after)


def results(task: str, seeds: dict[str, dict]) -> list[str]:
    """The page. Shares are in percent with 95 % intervals over problems, a column a seed."""
    first = next(iter(seeds.values()))
    arms = [arm for arm in first["arms"] if all(arm in summary["arms"] for summary in seeds.values())]
    named = {arm: arm for arm in arms}
    recipe = "recipes/rounds/seeds.sh" if task == "rounds" else "recipes/quickstart/seeds.sh"
    lines = [f"# {task}", "", f"Made by `{recipe}` from the JSON files beside this page.", ""]
    lines += ["## Test error by answer, %", "", *errors(seeds, "", named), ""]
    lines += ["## Test error by whole trace, %", "", *errors(seeds, "trace_", named), ""]
    lines += ["## Paired differences of test error by answer, points", "", *differences(seeds), ""]
    lines += ["## Mean Q before each step of a right solution, mean over seeds", ""]
    measured = [arm for arm in arms if all(arm in summary["q_by_step"] for summary in seeds.values())]
    steps = len(first["q_by_step"][measured[0]])
    lines += heading("arm", *(f"step {i}" for i in range(steps)))
    for arm in measured:
        means = [statistics.mean(s["q_by_step"][arm][i]["q"] for s in seeds.values()) for i in range(steps)]
        lines.append(f"| {arm} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    lines += ["", *search(task)]
    settings = Path(__file__).with_name(f"{task}.sh")
    if settings.is_file():
        lines += ["## Settings", "", "```", *settings.read_text().splitlines()[1:], "```"]
    return lines


def heading(*columns: str) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def percent(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def errors(seeds: dict[str, dict], prefix: str, arms: dict[str, str]) -> list[str]:
    """A row an arm. ``prefix``: empty for errors by answer, ``trace_`` for those by whole trace."""
    key = "trace_error" if prefix else "error"
    lines = heading("arm", *(f"seed {seed}" for seed in seeds), "mean")
    for arm, name in arms.items():
        cells = [summary["arms"][arm] for summary in seeds.values()]
        shown = [percent(cell[key], cell[f"{prefix}low"], cell[f"{prefix}high"]) for cell in cells]
        mean = f"{100 * statistics.mean(cell[key] for cell in cells):.1f}"
        lines.append(f"| {name} | " + " | ".join(shown) + f" | {mean} |")
    return lines


def differences(seeds: dict[str, dict]) -> list[str]:
    """Every arm against SFT, and the per-step arms against the better of control and RFT, on the same problems."""
    lines = heading("arm", "less", *(f"seed {seed}" for seed in seeds))
    rows: dict[tuple[str, str], list[str]] = {}
    for summary in seeds.values():
        for found in summary["differences"]:
            other = "sft" if found["minus"] == "sft" else "the better of control and rft"
            shown = percent(found["difference"], found["low"], found["high"], "+")
            rows.setdefault((found["arm"], other), []).append(shown)
    return lines + [f"| {arm} | {other} | " + " | ".join(cells) + " |" for (arm, other), cells in rows.items()]


def search(task: str) -> list[str]:
    """What `search.sh` measured on the validation problems, if it was run."""
    path = RESULTS / task / "search.json"
    if not path.is_file():
        return []
    arms = json.loads(path.read_text())["arms"]
    lines = ["## Validation error by setting, %, seed 0", "", *heading("arm", "setting", "error by answer")]
    for name, arm in sorted(arms.items(), key=lambda item: (item[0].partition(".")[0], item[1]["error"])):
        arm_name, _, setting = name.partition(".")
        lines.append(f"| {arm_name} | {setting} | {percent(arm['error'], arm['low'], arm['high'])} |")
    return [*lines, ""]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
