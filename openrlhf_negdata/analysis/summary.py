"""What an evaluation says: the error of each arm, differences between arms on the same problems, Q by step.

Every figure is a share in [0, 1] with a 95 % interval over problems. How it looks: :mod:`.tables` and :mod:`.plots`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_negdata.analysis.at_k import majority_at, pass_at, sizes
from openrlhf_negdata.analysis.intervals import mean_interval, paired_difference
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import read_file
from openrlhf_negdata.records import CORRECT, OUTCOMES
from openrlhf_negdata.steps.estimates import wilson

#: The arms of Setlur et al. 2024 in the order they build on each other; others follow alphabetically.
FIRST_ARMS = ("base", "sft", "control", "rft", "dpo", "step_dpo")
#: Arms that learn from right answers alone: what per-step DPO has to beat.
POSITIVE_ARMS = ("sft", "control", "rft")
#: JSON files of an evaluation folder that are not an arm; the last is there when the report is written into it.
NOT_ARMS = ("settings.json", "manifest.json", "summary.json")


@dataclass(frozen=True)
class Arm:
    """One evaluated policy. ``wrong`` and ``trace_wrong`` hold one 0/1 a problem, in the order of the problems.

    ``q_by_step`` holds one list a problem: entry i is the share of rollouts that were right from before step i of its
    reference solution, None where no rollouts were made. ``votes`` holds the samples of each problem, all equally
    many, as :mod:`.at_k` has them, where the policy was sampled. ``spent`` is what its evaluation took, by the names
    of ``SPENT``.
    """

    name: str
    model: str
    task: str
    wrong: list[int]
    trace_wrong: list[int] | None
    outcomes: dict[str, int]
    q_by_step: list[list[float | None]] | None
    votes: list[list[int]] | None = None
    spent: dict[str, float] | None = None


#: What a stage spends: answers and rollouts that engines made, the tokens of both, and the seconds it took.
SPENT = ("answers", "rollouts", "tokens", "seconds")


def read_evaluation(folder: str | Path) -> tuple[list[Arm], dict[str, Any]]:
    """The arms of an evaluation folder, in the order they are shown, and its settings.

    Raises:
        UserError: the folder or an arm is missing or malformed, or two arms were evaluated on different problems.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no such evaluation folder: {folder}")
    files = sorted(path for path in folder.glob("*.json") if path.name not in NOT_ARMS)
    if not files:
        raise UserError(f"{folder} holds no ARM.json: make it with `negdata evaluate`")
    arms = [_read_json(path, _arm) for path in files]
    for path, arm in zip(files, arms, strict=True):
        if arm.name != path.stem:
            raise UserError(f'{path}: malformed: it is named for another arm than its "arm", {arm.name!r}')
        if (arm.task, len(arm.wrong)) != (arms[0].task, len(arms[0].wrong)):
            raise UserError(
                f"{path} has {len(arm.wrong)} problems of {arm.task}, {files[0]} has {len(arms[0].wrong)} of "
                f"{arms[0].task}: evaluate every arm on the same problems"
            )
    settings = folder / "settings.json"
    return sorted(arms, key=_place), _read_json(settings, dict) if settings.exists() else {}


def read_times(path: str | Path) -> dict[str, float]:
    """Seconds by stage, in the order the stages first appear; a stage that ran several times is added up."""

    def parse(row: dict[str, Any], _: int) -> tuple[str, float]:
        stage, seconds = str(row["stage"]), float(row["seconds"])
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds are {seconds}")
        return stage, seconds

    total: dict[str, float] = {}
    for stage, seconds in read_file(path, parse):
        total[stage] = total.get(stage, 0.0) + seconds
    return total


def summarize(
    arms: Sequence[Arm],
    settings: dict[str, Any],
    seconds: dict[str, float],
    compare: Sequence[tuple[str, str]] = (),
    spent: dict[str, dict[str, float]] | None = None,
) -> dict[str, Any]:
    """The content of summary.json. Shares and differences of shares are fractions, times are seconds. ``compare``: two
    arms each, whose difference is wanted beside those that always are (:func:`_compared`). ``spent``: by stage, what
    engines made there (``SPENT``); the evaluation of these arms is added.

    Raises:
        UserError: ``compare`` names an arm that is not there.
    """
    return {
        "arms": {arm.name: _errors(arm) for arm in arms},
        "differences": _differences(arms, compare),
        "q_by_step": {arm.name: _mean_q(arm.q_by_step) for arm in arms if arm.q_by_step is not None},
        "at_k": {arm.name: _at_k(arm.votes) for arm in arms if arm.votes is not None},
        "seconds": seconds,
        "spent": (spent or {}) | _evaluations(arms),
        "settings": settings,
    }


def _place(arm: Arm) -> tuple[int, str]:
    """Where an arm stands: those in FIRST_ARMS first, variants of step DPO with it, then by name."""
    name = "step_dpo" if arm.name.startswith("step_dpo") else arm.name
    return (FIRST_ARMS.index(name) if name in FIRST_ARMS else len(FIRST_ARMS)), arm.name


def _read_json(path: Path, parse: Callable[[Any], Any]) -> Any:
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except KeyError as error:
        raise UserError(f"{path}: malformed: no field {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: malformed: {error}") from None


def _arm(row: dict[str, Any]) -> Arm:
    problems, outcomes = row["problems"], row["outcomes"]
    if not row["arm"].isprintable():
        raise ValueError(f"arm {row['arm']!r} cannot be printed")
    wrong = _zeros_and_ones(row, "wrong", problems)
    for outcome, count in outcomes.items():
        if outcome not in OUTCOMES or not isinstance(count, int) or count < 0:
            raise ValueError(f"outcomes: {outcome!r}: {count!r}")
    if sum(outcomes.values()) != problems or outcomes.get(CORRECT, 0) != problems - sum(wrong):
        raise ValueError(f"outcomes {outcomes} do not add up to {problems} problems with {sum(wrong)} of them wrong")
    q_by_step = row["q_by_step"]
    return Arm(
        name=row["arm"],
        model=str(row["model"]),
        task=str(row["task"]),
        wrong=wrong,
        trace_wrong=None if row["trace_wrong"] is None else _zeros_and_ones(row, "trace_wrong", problems),
        outcomes={outcome: outcomes.get(outcome, 0) for outcome in OUTCOMES},
        q_by_step=None if q_by_step is None else _shares(q_by_step["correct"], q_by_step["count"]),
        votes=None if row.get("votes") is None else _votes(row["votes"], problems),
        spent=None if row.get("spent") is None else {name: float(row["spent"].get(name, 0)) for name in SPENT},
    )


def _zeros_and_ones(row: dict[str, Any], field: str, problems: int) -> list[int]:
    if not problems or len(row[field]) != problems or not set(row[field]) <= {0, 1}:
        raise ValueError(f"{field} is not one 0 or 1 for each of {problems} problems")
    return [int(value) for value in row[field]]


def _votes(votes: list[list[int]], problems: int) -> list[list[int]]:
    if len(votes) != problems or len({len(of_one) for of_one in votes}) != 1 or not votes[0]:
        raise ValueError(f"votes are not equally many for each of {problems} problems")
    if not all(type(vote) is int and vote >= 0 for of_one in votes for vote in of_one):
        raise ValueError("votes are not numbers of 0 or more")
    return votes


def _shares(correct: list[list[int]], count: list[list[int]]) -> list[list[float | None]]:
    if [len(row) for row in correct] != [len(row) for row in count]:
        raise ValueError("q_by_step: correct and count are not equally long")
    shares = [[c / n if n else None for c, n in zip(*rows, strict=True)] for rows in zip(correct, count, strict=True)]
    if any(share is not None and not 0 <= share <= 1 for row in shares for share in row):
        raise ValueError("q_by_step: more right than count, or a negative number")
    return shares


def _errors(arm: Arm) -> dict[str, Any]:
    problems = len(arm.wrong)
    answer = wilson(sum(arm.wrong), problems)
    trace = (None, None, None) if arm.trace_wrong is None else wilson(sum(arm.trace_wrong), problems)
    return {
        "error": answer.value,
        "low": answer.low,
        "high": answer.high,
        **dict(zip(("trace_error", "trace_low", "trace_high"), trace, strict=True)),
        "problems": problems,
        "outcomes": arm.outcomes,
        "model": arm.model,
    }


def _compared(arms: Sequence[Arm], asked: Iterable[tuple[str, str]]) -> dict[tuple[str, str], None]:
    """Which arms are compared with which: those asked for; each step_dpo arm with dpo, and with the best of those that
    learn from right answers alone; every arm with sft."""
    named = {arm.name: arm for arm in arms}
    for pair in asked:
        if unknown := [name for name in pair if name not in named]:
            raise UserError(f"--compare {':'.join(pair)}: no arm {unknown[0]}, there are {', '.join(named)}")
    step_arms = [name for name in named if name.startswith("step_dpo")]
    positive = [name for name in POSITIVE_ARMS if name in named]
    best = min(positive, key=lambda name: sum(named[name].wrong), default="")
    wanted = [(name, other) for other in ("dpo", best) for name in step_arms]
    wanted += [(name, "sft") for name in named]
    return dict.fromkeys([*asked, *((a, b) for a, b in wanted if b in named and a != b)])


def _differences(arms: Sequence[Arm], asked: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    named = {arm.name: arm for arm in arms}
    rows = []
    for arm, minus in _compared(arms, asked):
        value, low, high = paired_difference(named[arm].wrong, named[minus].wrong)
        rows.append({"arm": arm, "minus": minus, "difference": value, "low": low, "high": high})
    return rows


def _evaluations(arms: Iterable[Arm]) -> dict[str, dict[str, float]]:
    known = [arm.spent for arm in arms if arm.spent is not None]
    return {"evaluate": {name: sum(one[name] for one in known) for name in SPENT}} if known else {}


def _at_k(votes: list[list[int]]) -> list[dict[str, Any]]:
    """pass@k and maj@k, each the mean over problems with its interval; maj@k from 3 on, where votes can decide."""
    rows = []
    for k in sizes(len(votes[0])):
        row: dict[str, Any] = {"k": k}
        for name, at_k, least in (("pass", pass_at, 1), ("majority", majority_at, 3)):
            told = mean_interval([at_k(of_one, k) for of_one in votes]) if k >= least else (None, None, None)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), told, strict=True))
        rows.append(row)
    return rows


def _mean_q(q_by_step: list[list[float | None]]) -> list[dict[str, Any]]:
    rows = []
    for step in range(max(map(len, q_by_step), default=0)):
        shares = [row[step] for row in q_by_step if step < len(row)]
        known = [share for share in shares if share is not None]
        if known:
            value, low, high = mean_interval(known)
            rows.append({"step": step, "q": value, "low": low, "high": high, "problems": len(known)})
    return rows
