"""Puts finished runs of one recipe into docs/results: their figures as JSON, and one page for all seeds.
The table of running_value goes into the README too.

python recipes/quickstart/results.py running_value runs/running_value-seed0 runs/running_value-seed1 ...
python recipes/quickstart/results.py rounds runs/rounds-seed0 runs/rounds-seed1 ...
"""

import json
import statistics
import sys
from pathlib import Path

from openrlhf_negdata.analysis.tables import Table, as_markdown, percent, points
from openrlhf_negdata.files import replacing, write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
#: How the README names the arms of its table.
README_ARMS = {
    "sft": "SFT on the teacher's solutions",
    "control": "SFT trained on for as long",
    "rft": "RFT, own correct answers",
    "dpo": "naive DPO pairs",
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
            readme.write(
                before
                + begin
                + "\n".join(as_markdown(Table("", *errors(seeds, "", README_ARMS))))
                + "\n"
                + end
                + after
            )


def results(task: str, seeds: dict[str, dict]) -> list[str]:
    """The page. Shares are in percent with 95 % intervals over problems, a column a seed."""
    first = next(iter(seeds.values()))
    named = {arm: arm for arm in first["arms"] if all(arm in summary["arms"] for summary in seeds.values())}
    recipe = "recipes/rounds/seeds.sh" if task == "rounds" else "recipes/quickstart/seeds.sh"
    lines = [f"# {task}", "", f"Made by `{recipe}` from the JSON files beside this page.", ""]
    for table in (
        Table("Test error by answer, %", *errors(seeds, "", named)),
        Table("Test error by whole trace, %", *errors(seeds, "trace_", named)),
        Table("Paired differences of test error by answer, points", *differences(seeds)),
        Table("Mean Q before each step of a right solution, mean over seeds", *mean_q(seeds, list(named))),
        *search(task),
    ):
        lines += [f"## {table.title}", "", *as_markdown(table), ""]
    settings = Path(__file__).with_name(f"{task}.sh")
    if settings.is_file():
        lines += ["## Settings", "", "```", *settings.read_text().splitlines()[1:], "```"]
    return lines


def errors(seeds: dict[str, dict], prefix: str, arms: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """A row an arm. ``prefix``: empty for errors by answer, ``trace_`` for those by whole trace."""
    key = "trace_error" if prefix else "error"
    rows = []
    for arm, name in arms.items():
        cells = [summary["arms"][arm] for summary in seeds.values()]
        shown = [percent(cell[key], cell[f"{prefix}low"], cell[f"{prefix}high"]) for cell in cells]
        rows.append([name, *shown, f"{100 * statistics.mean(cell[key] for cell in cells):.1f}"])
    return ["arm", *(f"seed {seed}" for seed in seeds), "mean"], rows


def differences(seeds: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Pairs of arms on the same problems. The better of control and rft may be another one on another seed."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for seed, summary in seeds.items():
        for found in summary["differences"]:
            other = "the better of control and rft" if found["minus"] in ("control", "rft") else found["minus"]
            rows.setdefault((found["arm"], other), {})[seed] = points(found)
    head = ["arm", "less", *(f"seed {seed}" for seed in seeds)]
    return head, [[*pair, *(cells.get(seed, "") for seed in seeds)] for pair, cells in rows.items()]


def mean_q(seeds: dict[str, dict], arms: list[str]) -> tuple[list[str], list[list[str]]]:
    measured = [arm for arm in arms if all(arm in summary["q_by_step"] for summary in seeds.values())]
    steps = min(len(summary["q_by_step"][arm]) for summary in seeds.values() for arm in measured)
    rows = []
    for arm in measured:
        means = [statistics.mean(s["q_by_step"][arm][i]["q"] for s in seeds.values()) for i in range(steps)]
        rows.append([arm, *(f"{mean:.3f}" for mean in means)])
    return ["arm", *(f"step {i}" for i in range(steps))], rows


def search(task: str) -> list[Table]:
    """What `search.sh` measured on the validation problems, if it was run."""
    path = RESULTS / task / "search.json"
    if not path.is_file():
        return []
    arms = json.loads(path.read_text())["arms"]
    rows = []
    for name, arm in sorted(arms.items(), key=lambda item: (item[0].partition(".")[0], item[1]["error"])):
        arm_name, _, setting = name.partition(".")
        rows.append([arm_name, setting, percent(arm["error"], arm["low"], arm["high"])])
    return [Table("Validation error by setting, %, seed 0", ["arm", "setting", "error by answer"], rows)]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
