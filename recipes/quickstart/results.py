"""Puts finished quickstart runs of one task into docs/results: their figures as JSON, and one table of all seeds.

python recipes/quickstart/results.py running_value runs/running_value-seed0 runs/running_value-seed1 ...
"""

import json
import statistics
import sys
from pathlib import Path

from openrlhf_negdata.files import replacing, write_json


def main(task: str, runs: list[str]) -> None:
    results = Path(__file__).parents[2] / "docs" / "results"
    seeds = {}
    for run in map(Path, runs):
        summary = json.loads((run / "summary.json").read_text())
        write_json(results / task / f"{run.name}.json", summary)
        seeds[run.name.rpartition("seed")[2]] = summary
    with replacing(results / f"{task}.md") as page:
        page.write("\n".join(table(task, seeds)) + "\n")
    print(results / f"{task}.md")


def table(task: str, seeds: dict[str, dict]) -> list[str]:
    """Test errors in percent with 95 % intervals over problems, a column a seed, and their mean over seeds."""
    first = next(iter(seeds.values()))
    arms = [arm for arm in first["arms"] if all(arm in summary["arms"] for summary in seeds.values())]
    lines = [f"# {task}", "", "Made by `recipes/quickstart/seeds.sh` from the JSON files beside this page.", ""]
    for name, error, low, high in (
        ("Test error by answer", "error", "low", "high"),
        ("Test error by whole trace", "trace_error", "trace_low", "trace_high"),
    ):
        lines += [f"## {name}, %", "", "| arm | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |"]
        lines += ["|---" * (len(seeds) + 2) + "|"]
        for arm in arms:
            cells = [summary["arms"][arm] for summary in seeds.values()]
            shown = [f"{100 * c[error]:.1f} [{100 * c[low]:.1f}, {100 * c[high]:.1f}]" for c in cells]
            mean = f"{100 * statistics.mean(c[error] for c in cells):.1f}"
            lines.append(f"| {arm} | " + " | ".join(shown) + f" | {mean} |")
        lines.append("")
    lines += ["## Mean Q before each step of a right solution, mean over seeds", ""]
    measured = [arm for arm in arms if all(arm in summary["q_by_step"] for summary in seeds.values())]
    if measured:
        steps = len(first["q_by_step"][measured[0]])
        lines += ["| arm | " + " | ".join(f"step {i}" for i in range(steps)) + " |", "|---" * (steps + 1) + "|"]
        for arm in measured:
            means = [statistics.mean(s["q_by_step"][arm][i]["q"] for s in seeds.values()) for i in range(steps)]
            lines.append(f"| {arm} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
        lines.append("")
    lines += [
        *search_table(task),
        "## Settings",
        "",
        "```",
        *Path(__file__).with_name(f"{task}.sh").read_text().splitlines()[1:],
        "```",
    ]
    return lines


def search_table(task: str) -> list[str]:
    """What `search.sh` measured on the validation problems, if it was run."""
    path = Path(__file__).parents[2] / "docs" / "results" / task / "search.json"
    if not path.is_file():
        return []
    arms = json.loads(path.read_text())["arms"]
    lines = ["## Validation error by setting, %, seed 0", "", "| arm | setting | error by answer |", "|---|---|---|"]
    for name, arm in sorted(arms.items(), key=lambda item: (item[0].partition(".")[0], item[1]["error"])):
        shown = f"{100 * arm['error']:.1f} [{100 * arm['low']:.1f}, {100 * arm['high']:.1f}]"
        lines.append(f"| {name.partition('.')[0]} | {name.partition('.')[2]} | {shown} |")
    return [*lines, ""]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
