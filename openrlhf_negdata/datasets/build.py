"""Building a training set. An arm is given one problem at a time; subsets, balance, validation, decontamination and
the account are the same for all arms, and stand here."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openrlhf_negdata import flags
from openrlhf_negdata.datasets import hub
from openrlhf_negdata.datasets.card import Figures, write_card
from openrlhf_negdata.datasets.decontaminate import HeldOut
from openrlhf_negdata.datasets.rows import Account, Answered, Arm, Row, readable
from openrlhf_negdata.datasets.source import Source, first_problems, held_out
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import Output, Reading, ShuffledRows, read_problems, write_jsonl


@dataclass(frozen=True)
class Sizes:
    """How much of the input becomes a set. Of ``problems``, ``size`` and ``max_len`` -1 is no limit."""

    problems: int = -1
    size: int = -1
    max_len: int = -1
    validation: float = 0.0
    decontaminate: Sequence[str] = ()
    ngram: int = 13
    seed: int = 0


def build(
    name: str, arm: Arm, source: Source, files: Output, sizes: Sizes, reading: Reading, command: str
) -> list[str]:
    """Write the set that ``arm``, called ``name``, makes of ``source``, and its card; returns what is to be said.

    Raises:
        UserError: the source lacks what the arm is made of, or too few rows are left.
    """
    _check(name, arm, source, sizes, reading)
    arm.begin(source)
    made, parts = _Made(arm, source, sizes, files.path), arm.parts()
    for part in parts:
        made.add(part, name)
    account, notes = made.dropped(), [note for part in parts for note in part.notes()]
    if not len(made.rows):
        said = "".join(f" {note}" for note in notes)
        raise UserError(f"{source.name}: no row is left for {name} (dropped: {account or 'nothing came in'}).{said}")
    if len(made.rows) < sizes.size:
        raise UserError(f"--size {sizes.size}: {source.name} gives {len(made.rows)} rows of {name}")
    files.claim()
    written = made.write()
    _list_bad_rows(reading, files.path)
    settings = {"seed": sizes.seed} | flags.in_force(arm) | made.sizes_in_force()
    if "arm_file" in files.settings:
        settings["arm_file"] = files.settings["arm_file"]
    accounts = [*_read(reading), *made.accounts]
    data = files.settings["input"]
    write_card(
        files.path, name, command, settings, data, accounts, notes, made.figures, written, made.counts(len(written))
    )
    says = [
        f"{files.path}: {len(written)} rows; {account.total} {account.unit} in, {account.kept} kept, "
        f"dropped {dict(sorted(account.dropped.items())) or 'none'}"
        for account in accounts
    ]
    if made.over_long:
        says.append(f"{files.path}: {made.over_long} rows over --data.max_len {sizes.max_len} are left out")
    return says + notes


def beside(output: Path) -> list[Path]:
    """The files that may be written beside a set."""
    return [output.with_name(f"{output.name}.card.md"), hub.validation(output), _bad_rows(output)]


class _Made:
    """The rows made so far, and the account of all that went in."""

    def __init__(self, arm: Arm, source: Source, sizes: Sizes, output: Path) -> None:
        self.arm, self.source, self.sizes = arm, source, sizes
        self.left_out = _left_out(sizes, source)
        self.validation = held_out(source.problems, sizes.validation, sizes.seed)
        self.rows, self.apart = ShuffledRows(output), ShuffledRows(hub.validation(output))
        self.figures, self.accounts = Figures(), list[Account]()
        self.over_long = 0
        self.unbalanced: set[str] = set()

    def add(self, part: Arm, name: str) -> None:
        """The rows of one part of the arm, of all problems. The first part decides which problems are balanced."""
        part.prepare(known for known in self.source if known.problem.id not in self.left_out)
        first, account = not self.accounts, Account(part.unit)
        for known in tqdm(self.source, desc=f"build {name}", unit="problem"):
            mine = Account(part.unit)
            for row in self._of_problem(part, known, mine, first):
                if self.source.tokenizer is not None:
                    row = readable(row, self.source.tokenizer)
                if known.problem.id in self.validation:
                    self.apart.add(row)
                else:
                    self.rows.add(row)
                    self.figures.add(row)
            account.add(mine)
            if first:
                self.figures.see(known, self.arm.estimator)
        self.accounts.append(account)

    def _of_problem(self, part: Arm, known: Answered, mine: Account, first: bool) -> list[Row]:
        problem, most = known.problem.id, self.sizes.max_len
        if reason := self.left_out.get(problem) or ("too_few_for_balance" if problem in self.unbalanced else None):
            mine.drop(reason, part.units(known))
            return []
        every = list(part.rows(known, mine))
        if every and not mine.total:
            raise UserError(
                f"the arm made rows of problem {problem!r} and counted none: call account.keep and account.drop for "
                f"every one of its {part.unit}"
            )
        found = [row for row in every if most < 0 or _tokens(row) <= most]
        if first and self.arm.balanced and len(found) < self.arm.per_problem:
            self.unbalanced.add(problem)
            mine.drop("too_few_for_balance", mine.kept)
            mine.kept = 0
            return []
        self.over_long += len(every) - len(found)
        return found

    def dropped(self) -> dict[str, int]:
        found = sum((account.dropped for account in self.accounts), Counter[str]())
        return dict(found) | ({"over_long": self.over_long} if self.over_long else {})

    def write(self) -> list[int]:
        """Write the files; returns the numbers of the rows that are in the set."""
        written = self.rows.write(self.sizes.seed, self.sizes.size if self.sizes.size >= 0 else None)
        if self.sizes.validation:
            self.apart.write(self.sizes.seed)
        else:
            self.apart.path.unlink(missing_ok=True)
        return written

    def counts(self, written: int) -> list[tuple[str, int]]:
        """How many rows were made, and where they are."""
        counts = [("made", len(self.rows) + len(self.apart) + self.over_long), ("here", written)]
        counts += [("in the file for validation", len(self.apart))] if self.sizes.validation else []
        counts += [("left out: over_long", self.over_long)] if self.sizes.max_len > 0 else []
        return counts + ([("left out by --size", len(self.rows) - written)] if len(self.rows) > written else [])

    def sizes_in_force(self) -> dict[str, Any]:
        limits = {"problems": self.sizes.problems, "size": self.sizes.size, "data.max_len": self.sizes.max_len}
        sizes: dict[str, Any] = {name: "all" if value < 0 else value for name, value in limits.items()}
        sizes |= {"validation": self.sizes.validation}
        if self.sizes.decontaminate:
            sizes |= {"decontaminate": ", ".join(self.sizes.decontaminate), "ngram": self.sizes.ngram}
        return sizes


def _check(name: str, arm: Arm, source: Source, sizes: Sizes, reading: Reading) -> None:
    """Raise unless the source has what the arm is made of."""
    if sizes.max_len > 0 and (source.tokenizer is None or not arm.ids):
        how = "give --tokenizer, or a run folder" if arm.ids else f"rows of {name} are text alone"
        raise UserError(f"--data.max_len needs token ids: {how}")
    run = source.run
    if "values" in arm.tables:
        if source.valuing is None:
            raise UserError(f"{source.name} has no step values: run `negdata value` first and give its output")
    elif "traces" in arm.tables:
        answers = run.read("traces") if run else itertools.chain.from_iterable(source.own.values())
        trace = next(iter(answers), None)
        if trace is None or trace.outcome is None:
            how = "graded answers: run `negdata grade` first and give its output"
            bad = Counter(reason for of, _, _, reason in reading.left_out if of.startswith("traces."))
            why = f": all rows of it are bad ({dict(bad)})" if bad else ""
            raise UserError(f"{source.name} has no {how if run else 'traces.jsonl with graded answers'}{why}")


def _left_out(sizes: Sizes, source: Source) -> dict[str, str]:
    """The problems that give no rows, and why. A subset is drawn of those that are in no test set."""
    tests = {path: [problem.question for problem in read_problems(path, source.task)] for path in sizes.decontaminate}
    test_sets = HeldOut(tests, sizes.ngram)
    found = {problem.id: test_sets.found(problem.question) for problem in source.problems}
    left_out = {name: f"contaminated_by_{Path(test).stem}" for name, test in found.items() if test is not None}
    clean = [problem for problem in source.problems if problem.id not in left_out]
    if sizes.problems > len(clean):
        raise UserError(f"--problems {sizes.problems}: there are {len(clean)} in {source.name}")
    if sizes.problems >= 0:
        taken = first_problems(clean, sizes.problems, sizes.seed)
        left_out |= {problem.id: "not_in_subset" for problem in clean if problem.id not in taken}
    return left_out


def _tokens(row: Row) -> int:
    """The tokens of the prompt and the longest side."""
    sides = [len(ids) for name, ids in row.items() if name.endswith("_ids") and name != "prompt_ids"]
    return len(row["prompt_ids"]) + max(sides)


def _read(reading: Reading) -> list[Account]:
    """What became of the rows that were read, where bad ones may be left out: an account a file."""
    accounts = {name: Account(f"rows of {name}", kept) for name, kept in reading.kept.items()}
    for name, _, _, reason in reading.left_out:
        accounts[name].drop(reason)
    return list(accounts.values()) if reading.skip_bad_rows else []


def _bad_rows(output: Path) -> Path:
    return output.with_name(f"{output.name}.dropped.jsonl")


def _list_bad_rows(reading: Reading, output: Path) -> None:
    """Write OUTPUT.dropped.jsonl: which rows reading left out, and why."""
    if reading.skip_bad_rows:
        bad = ({"file": file, "line": number, "reason": reason} for _, file, number, reason in reading.left_out)
        write_jsonl(_bad_rows(output), bad)
    else:
        _bad_rows(output).unlink(missing_ok=True)
