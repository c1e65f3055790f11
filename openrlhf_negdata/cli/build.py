"""Turn problems, graded answers and step values into a training set, and write a card beside it that accounts for
every one.

    negdata build sft      --input FOLDER --task gsm8k --tokenizer MODEL --output sft.jsonl
    negdata build rft      --input graded --output rft.jsonl
    negdata build dpo      --input graded --output dpo.jsonl
    negdata build step-dpo --input values --pairing siblings --output step_dpo.jsonl

--input is a run folder of `negdata sample`, `grade` or `value`, or a folder of your own with problems.jsonl and, for
rft and dpo, traces.jsonl: rows of `negdata grade` with "problem", the id of their problem, or "question", its text.
The other arms are made of step values. Problems that lie elsewhere, or in another form, are named by --problems_from:

    negdata build sft --task gsm8k --problems_from hf:openai/gsm8k:main:train --output sft.jsonl

Rows of the set hold text and token ids: those that were sampled, or, of a folder of your own, those that --tokenizer
makes of its text. Without --tokenizer such a set is text alone, for OpenRLHF's own trainers. The card is
OUTPUT.card.md. docs/sets.md says what each arm is.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openrlhf_negdata.datasets import advantage_weighted, hub, prm, rft, spurious
from openrlhf_negdata.datasets.advantage_weighted import AdvantageWeighted
from openrlhf_negdata.datasets.card import Figures, write_card
from openrlhf_negdata.datasets.decontaminate import HeldOut
from openrlhf_negdata.datasets.dpo import Dpo
from openrlhf_negdata.datasets.dpo_edit_distance import DpoEditDistance
from openrlhf_negdata.datasets.prm import Prm
from openrlhf_negdata.datasets.rft import Rft
from openrlhf_negdata.datasets.rows import Account, Arm, Row, readable
from openrlhf_negdata.datasets.sft import Sft
from openrlhf_negdata.datasets.source import Source, first_problems, held_out
from openrlhf_negdata.datasets.spurious import Spurious
from openrlhf_negdata.datasets.step_dpo import Algorithm1, SharedPrefix, Siblings
from openrlhf_negdata.datasets.step_rft import StepRft
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import BadRowError, Reading, ShuffledRows, read_problems, source_name, write_jsonl
from openrlhf_negdata.forms import ACCEPTED, rows_of
from openrlhf_negdata.models import load_tokenizer
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import Segmentation, first_step
from openrlhf_negdata.steps.values import PITS, Estimator
from openrlhf_negdata.tasks import Task, load

#: Each arm, and how many tables it is made of: traces, values, rollouts.
ARMS = {
    "sft": 0,
    "rft": 1,
    "dpo": 1,
    "dpo-edit-distance": 1,
    "step-dpo": 3,
    "step-rft": 2,
    "advantage-weighted": 2,
    "spurious": 3,
    "prm": 2,
}
PAIRINGS = ("algorithm1", "shared_prefix", "siblings")
#: Flags that are not for all arms.
FLAGS_OF = (
    (("rft",), ("distinct", "min_distance", "most_different")),
    (("rft", "step-rft"), ("with_solutions",)),
    (tuple(arm for arm in ARMS if arm not in ("sft", "step-rft")), ("per_problem",)),
    (("step-dpo",), ("pairing", "pit", "confidence", "min_drop", "positives", "chosen_teacher", "rejected_rest")),
    (("step-dpo",), ("same_step", "min_gap", "min_rollouts", "weigh_pairs")),
    (tuple(arm for arm, tables in ARMS.items() if tables > 1), ("best_of", "best_of_biased")),
    (("step-rft",), ("drop_share", "correct_only")),
    (("advantage-weighted",), ("beta", "weights", "max_weight", "normalise")),
    (("spurious",), ("seeding", "share")),
    (("prm",), ("form", "labels")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arm", choices=tuple(ARMS), help="which training set")
    parser.add_argument("--input", default=None, help="run folder, or a folder with problems.jsonl and traces.jsonl")
    parser.add_argument(
        "--problems_from", default=None, help=f"the problems, if the folder has no problems.jsonl: {ACCEPTED}"
    )
    parser.add_argument("--output", required=True, help="the .jsonl file to write")
    parser.add_argument("--task", default=None, help="what the problems are; a run folder says so itself")
    parser.add_argument("--tokenizer", default=None, help="model folder whose tokenizer makes the ids")
    parser.add_argument(
        "--data.apply_chat_template",
        action="store_true",
        help="with --tokenizer: write prompts with its chat template",
    )
    parser.add_argument(
        "--skip_bad_rows",
        action="store_true",
        help="leave out bad rows of your own files, count them on the card and list them in OUTPUT.dropped.jsonl; "
        "without it the first one is an error",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="decides what is drawn at random, and the order of the rows"
    )
    parser.add_argument("--local_dir", default=None, help="write a folder for the Hugging Face hub too: set and card")
    parser.add_argument(
        "--push_to_hub",
        default=None,
        metavar="NAME",
        help="send that folder to the hub, as the data set NAME (a new one is private)",
    )

    sizes = parser.add_argument_group("how much")
    sizes.add_argument(
        "--problems", type=int, default=-1, help="so many of the problems, by --seed; a larger number adds to them"
    )
    sizes.add_argument("--size", type=int, default=-1, help="so many rows; a larger number adds to them. -1: all")
    sizes.add_argument(
        "--per_problem",
        type=int,
        default=-1,
        help="rows a problem at most: right answers of rft, wrong ones of dpo, pairs, answers; -1: all",
    )
    sizes.add_argument(
        "--data.max_len",
        type=int,
        default=-1,
        help="leave out rows whose prompt and longest side have more tokens, before --size; -1: none",
    )
    sizes.add_argument(
        "--balanced", action="store_true", help="leave out problems that give fewer than --per_problem rows"
    )
    sizes.add_argument(
        "--validation",
        type=float,
        default=0.0,
        help="share of the problems whose rows go to OUTPUT's name with .validation before its suffix",
    )

    sizes.add_argument(
        "--decontaminate",
        nargs="+",
        default=[],
        metavar="FILE",
        help="leave out problems that stand, whole or in part, in these test sets: files, or any form of "
        "--problems_from",
    )
    sizes.add_argument(
        "--ngram", type=int, default=13, help="words in a row that a question may not have in common with a test set"
    )

    answers = parser.add_argument_group("rft")
    answers.add_argument(
        "--with_solutions",
        action="store_true",
        help="the teacher's solutions too; step-rft too, where `negdata value --value.solutions` valued them",
    )
    answers.add_argument(
        "--distinct",
        choices=rft.DISTINCT,
        default="answers",
        help="two answers are one where they are equal; hold the same equations; are as near as --min_distance; or "
        "never (all)",
    )
    answers.add_argument(
        "--min_distance", type=float, default=0.2, help="edits of characters, as a share of the mean length"
    )
    answers.add_argument(
        "--most_different", action="store_true", help="of twice --per_problem answers, keep those that differ most"
    )

    pairs = parser.add_argument_group("step-dpo")
    pairs.add_argument("--pairing", choices=PAIRINGS, default="algorithm1", help="how pairs are made")
    pairs.add_argument(
        "--pit",
        choices=PITS,
        default=None,
        help="algorithm1 and shared_prefix: which step of a wrong answer lost it (default: lowest_q; where rollouts "
        "were spent on finding one alone, that one)",
    )
    pairs.add_argument(
        "--confidence", type=float, default=0.9, help="--pit posterior: least chance that the step lost it"
    )
    pairs.add_argument(
        "--min_drop",
        type=float,
        default=0.0,
        help="algorithm1 and shared_prefix: least loss of value a pit is blamed for",
    )
    pairs.add_argument(
        "--positives", action="store_true", help="algorithm1 and shared_prefix: pits of right answers too"
    )
    pairs.add_argument("--chosen_teacher", action="store_true", help="algorithm1: chosen is the teacher's solution")
    pairs.add_argument(
        "--rejected_rest", action="store_true", help="shared_prefix: rejected is the pit and all after it"
    )
    pairs.add_argument(
        "--same_step", action="store_true", help="shared_prefix: chosen may take the very step that is rejected"
    )
    pairs.add_argument(
        "--weigh_pairs", action="store_true", help="a pair weighs in the loss what its two sides differ by in value"
    )
    pairs.add_argument("--min_gap", type=float, default=0.3, help="siblings: least difference in value")
    pairs.add_argument("--min_rollouts", type=int, default=4, help="siblings: rollouts a step is valued by")

    values = parser.add_argument_group("all arms made of step values")
    values.add_argument(
        "--best_of", type=int, default=1, help="Q is that of the best of this many rollouts; the paper's is 5"
    )
    values.add_argument(
        "--best_of_biased", action="store_true", help="by the form for fewer rollouts, 1 - (1 - c/n)^K"
    )

    others = parser.add_argument_group("step-rft, advantage-weighted, spurious, prm")
    others.add_argument("--drop_share", type=float, default=0.5, help="step-rft: share of the answers that is dropped")
    others.add_argument("--correct_only", action="store_true", help="step-rft: right answers alone")
    others.add_argument("--beta", type=float, default=1.0, help="advantage-weighted: a step weighs exp(A / beta)")
    others.add_argument(
        "--weights",
        choices=advantage_weighted.WEIGHTS,
        default="exp",
        help="advantage-weighted: or a step weighs A / beta, negative where it lost value",
    )
    others.add_argument(
        "--max_weight",
        type=float,
        default=20.0,
        help="advantage-weighted: a step weighs no more than this, nor less than minus this",
    )
    others.add_argument(
        "--normalise",
        choices=advantage_weighted.NORMALISE,
        default="none",
        help="advantage-weighted: what the weights have a mean of 1 over, by tokens",
    )
    others.add_argument(
        "--seeding",
        choices=spurious.SEEDINGS,
        default="low_advantage",
        help="spurious: right answers with the lowest advantage, or wrong ones that a rollout recovered",
    )
    others.add_argument("--share", type=float, default=1.0, help="spurious: chance that an answer is replaced")
    others.add_argument("--form", choices=prm.FORMS, default="trl", help="prm: whose format")
    others.add_argument("--labels", choices=prm.LABELS, default="hard", help="prm: whether Q is above 0, or Q itself")


DEFAULTS = argparse.ArgumentParser()
add_arguments(DEFAULTS)


def run(args: argparse.Namespace) -> None:
    folder, output = _input(args), Path(args.output)
    made = Run.open(folder) if folder and (folder / "manifest.json").is_file() else None
    data = made.manifest["settings"] if made else _digests(folder, args.problems_from)
    identity = {"arm": args.arm, "input": data, **_flags(args)}
    identity = json.loads(json.dumps(identity))
    stamp = output.with_name(f".{output.name}.settings.json")
    if output.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == identity:
        print(f"{output} is complete")
    else:
        stamp.unlink(missing_ok=True)
        try:
            _build(args, folder, made, output, identity["input"])
        except BadRowError as error:
            how = "" if args.skip_bad_rows else " (--skip_bad_rows leaves such rows out)"
            raise UserError(f"{error}{how}") from None
        write_jsonl(stamp, [identity])
    if args.local_dir:
        hub.write(Path(args.local_dir), output)
    if args.push_to_hub:
        hub.push(args.push_to_hub, output)


def _input(args: argparse.Namespace) -> Path | None:
    """The input folder; None where problems that lie elsewhere are all there is."""
    if args.input is None:
        if args.problems_from is None:
            raise UserError("--input FOLDER is needed, or --problems_from where problems are all there is")
        return None
    folder = Path(args.input)
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    own = next((name for name in ("manifest.json", "problems.jsonl") if (folder / name).is_file()), None)
    if args.problems_from and own:
        raise UserError(f"--problems_from {args.problems_from}: {folder} has problems of its own ({own})")
    if not args.problems_from and not own:
        raise UserError(f"no such file: {folder / 'problems.jsonl'} (--problems_from says where else they are)")
    return folder


def _build(
    args: argparse.Namespace, folder: Path | None, made: Run | None, output: Path, data: dict[str, Any]
) -> None:
    """Write the set and its card. ``data`` says what it is made of."""
    _check(args)
    task = _task(args.task, made)
    tokenizer = load_tokenizer(args.tokenizer) if args.tokenizer else made.tokenizer() if made else None
    max_len = _max_len(args, tokenizer)
    reading = Reading(args.skip_bad_rows)
    template = vars(args)["data.apply_chat_template"]
    source = Source(folder, task, tokenizer, template, ARMS[args.arm], args.problems_from, reading)
    arms = _arms(args, made, task, tokenizer)
    where = args.input or args.problems_from
    _check_input(args, where, made, source, reading)
    left_out = _left_out(args, source, task)
    validation = held_out(source.problems, args.validation, args.seed)
    estimator = _estimator(args)
    accounts, figures, over_long = _read(reading), Figures(), 0
    rows, apart = ShuffledRows(output), ShuffledRows(hub.validation(output))
    for arm in arms:
        arm.prepare(known for known in source if known.problem.id not in left_out)
        account = Account(arm.unit)
        for known in tqdm(source, desc=f"build {args.arm}", unit="problem"):
            mine = Account(arm.unit)
            found = []
            if known.problem.id in left_out:
                mine.drop(left_out[known.problem.id], arm.units(known))
            else:
                every = list(arm.rows(known, mine))
                found = [row for row in every if max_len < 0 or _tokens(row) <= max_len]
                if args.balanced and len(found) < args.per_problem:
                    mine.drop("too_few_for_balance", mine.kept)
                    mine.kept, every, found = 0, [], []
                over_long += len(every) - len(found)
            account.add(mine)
            if arm is arms[0]:
                figures.see(known, estimator)
            for row in found:
                if tokenizer is not None:
                    row = readable(row, tokenizer)
                if known.problem.id in validation:
                    apart.add(row)
                else:
                    rows.add(row)
                    figures.add(row)
        accounts.append(account)
    if not len(rows):
        dropped = {reason: count for account in accounts for reason, count in account.dropped.items()}
        dropped |= {"over_long": over_long} if over_long else {}
        raise UserError(f"{where}: no row is left for {args.arm} (dropped: {dropped or 'nothing came in'})")
    if len(rows) < args.size:
        raise UserError(f"--size {args.size}: {where} gives {len(rows)} rows of {args.arm}")
    written = rows.write(args.seed, args.size if args.size >= 0 else None)
    if args.validation:
        apart.write(args.seed)
    else:
        apart.path.unlink(missing_ok=True)
    _list_bad_rows(reading, output)
    counts = [("made", len(rows) + len(apart) + over_long), ("here", len(written))]
    counts += [("in the file for validation", len(apart))] if args.validation else []
    counts += [("left out: over_long", over_long)] if max_len > 0 else []
    counts += [("left out by --size", len(rows) - len(written))] if len(rows) > len(written) else []
    told = {key: value for key, value in _flags(args).items() if value != DEFAULTS.get_default(key)}
    write_card(
        output,
        args.arm,
        f"negdata build {shlex.join(args.words)}",
        {"seed": args.seed} | told,
        data,
        accounts,
        [note for arm in arms for note in arm.notes()],
        figures,
        written,
        counts,
    )
    for account in accounts:
        print(
            f"{output}: {len(written)} rows; {account.total} {account.unit} in, {account.kept} kept, "
            f"dropped {dict(sorted(account.dropped.items())) or 'none'}"
        )
    if over_long:
        print(f"{output}: {over_long} rows over --data.max_len {max_len} are left out")


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


def _list_bad_rows(reading: Reading, output: Path) -> None:
    """Write OUTPUT.dropped.jsonl: which rows reading left out, and why."""
    listed = output.with_name(f"{output.name}.dropped.jsonl")
    if reading.skip_bad_rows:
        bad = ({"file": file, "line": number, "reason": reason} for _, file, number, reason in reading.left_out)
        write_jsonl(listed, bad)
    else:
        listed.unlink(missing_ok=True)


def _flags(args: argparse.Namespace) -> dict:
    """The flags that decide the content of a set; of a test set its content does."""
    apart = ("command", "arm", "input", "problems_from", "output", "local_dir", "push_to_hub", "words")
    flags = {key: value for key, value in vars(args).items() if key not in apart}
    return flags | {"decontaminate": {source_name(test): _digest(test) for test in args.decontaminate}}


def _digests(folder: Path | None, problems_from: str | None) -> dict[str, str]:
    """The content of a folder that no command of ours made, and of problems that lie elsewhere."""
    digests = {source_name(problems_from): _digest(problems_from)} if problems_from else {}
    for file in (folder / name for name in ("problems.jsonl", "traces.jsonl")) if folder else ():
        if file.is_file():
            digests[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return digests


def _digest(source: str) -> str:
    """The content of a file, a folder or an ``hf:`` name: of its rows, bad ones too."""
    digest = hashlib.sha256()
    for _, number, row in rows_of(source):
        digest.update(f"{number} {row!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _task(name: str | None, made: Run | None) -> Task:
    if made is None:
        if name is None:
            raise UserError("--task is needed: the input folder was not made by `negdata sample`")
        return load(name)
    if name is not None and name != made.manifest["settings"]["task"]:
        raise UserError(f"--task {name}: {made.path} was made for task {made.manifest['settings']['task']}")
    return made.task


def _check(args: argparse.Namespace) -> None:
    for arms, flags in FLAGS_OF:
        for flag in flags:
            if args.arm not in arms and vars(args)[flag] != DEFAULTS.get_default(flag):
                raise UserError(f"--{flag} is for {', '.join(arms)}, not for {args.arm}")
    if args.best_of < 1 or not 0.5 < args.confidence < 1:
        raise UserError("--best_of must be at least 1, --confidence between 0.5 and 1")
    for name in ("validation", "drop_share", "share"):
        if not 0 <= (value := vars(args)[name]) <= 1:
            raise UserError(f"--{name} must lie between 0 and 1, not {value}")
    if args.beta <= 0 or args.max_weight <= 0:
        raise UserError("--beta and --max_weight must be above 0")
    if args.per_problem < 1 and (args.balanced or args.most_different or args.arm == "spurious"):
        raise UserError("--per_problem N is needed: by --balanced, by --most_different and by the arm spurious")


def _max_len(args: argparse.Namespace, tokenizer: Any) -> int:
    max_len = vars(args)["data.max_len"]
    if max_len == 0 or max_len < -1:
        raise UserError(f"--data.max_len must be -1 or at least 1, not {max_len}")
    if max_len > 0 and (tokenizer is None or args.arm == "prm"):
        how = "rows of prm are text alone" if args.arm == "prm" else "give --tokenizer, or a run folder"
        raise UserError(f"--data.max_len needs token ids: {how}")
    return max_len


def _check_input(args: argparse.Namespace, folder: str, made: Run | None, source: Source, reading: Reading) -> None:
    """Raise unless the input has what the arm is made of."""
    if ARMS[args.arm] > 1:
        if made is None or made.manifest["command"] != "value":
            raise UserError(f"{folder} has no step values: run `negdata value` first and give its output")
    elif ARMS[args.arm]:
        answers = made.read("traces") if made else itertools.chain.from_iterable(source.own.values())
        trace = next(iter(answers), None)
        if trace is None or trace.outcome is None:
            how = (
                "graded answers: run `negdata grade` first and give its output"
                if made
                else "traces.jsonl with graded answers"
            )
            bad = Counter(reason for name, _, _, reason in reading.left_out if name == "traces.jsonl")
            raise UserError(f"{folder} has no {how}" + (f": all rows of it are bad ({dict(bad)})" if bad else ""))
    if args.arm == "step-rft" and args.with_solutions and not (made and made.manifest["settings"].get("solutions")):
        raise UserError(
            f"--with_solutions: {folder} has no values of solutions, `negdata value --value.solutions` makes them"
        )


def _left_out(args: argparse.Namespace, source: Source, task: Task) -> dict[str, str]:
    """The problems that give no rows, and why. A subset is drawn of those that are in no test set."""
    tests = {path: [problem.question for problem in read_problems(path, task)] for path in args.decontaminate}
    held_out = HeldOut(tests, args.ngram)
    found = {problem.id: held_out.found(problem.question) for problem in source.problems}
    left_out = {name: f"contaminated_by_{Path(test).stem}" for name, test in found.items() if test is not None}
    clean = [problem for problem in source.problems if problem.id not in left_out]
    if args.problems > len(clean):
        raise UserError(f"--problems {args.problems}: there are {len(clean)} in {args.input or args.problems_from}")
    if args.problems >= 0:
        taken = first_problems(clean, args.problems, args.seed)
        left_out |= {problem.id: "not_in_subset" for problem in clean if problem.id not in taken}
    return left_out


def _estimator(args: argparse.Namespace) -> Estimator:
    return Estimator(args.pit or "lowest_q", args.best_of, args.best_of_biased, args.min_drop, args.confidence)


def _arms(args: argparse.Namespace, made: Run | None, task: Task, tokenizer: Any) -> list[Arm]:
    per_problem, seed = args.per_problem, args.seed
    if args.arm == "sft":
        return [Sft()]
    if args.arm == "rft":
        answers = Rft(per_problem, args.distinct, args.min_distance, args.most_different)
        return [answers, Sft()] if args.with_solutions else [answers]
    if args.arm == "dpo":
        return [Dpo(per_problem, seed)]
    if args.arm == "dpo-edit-distance":
        return [DpoEditDistance(per_problem, seed)]
    if made is None or made.manifest["command"] != "value":
        return []  # and _check_input says so
    _check_rollouts(args, made)
    estimator = _estimator(args)
    if args.arm == "step-dpo":
        return [_step_dpo(args, estimator, made, task, tokenizer)]
    if args.arm == "step-rft":
        return [StepRft(estimator, args.drop_share, args.correct_only, seed, args.with_solutions)]
    if args.arm == "advantage-weighted":
        return [
            AdvantageWeighted(estimator, args.beta, args.max_weight, args.normalise, args.weights, per_problem, seed)
        ]
    if args.arm == "spurious":
        return [Spurious(estimator, args.seeding, per_problem, args.share, seed)]
    return [Prm(estimator, tokenizer, args.form, args.labels, per_problem, seed)]


def _step_dpo(args: argparse.Namespace, estimator: Estimator, made: Run, task: Task, tokenizer: Any) -> Arm:
    if args.pairing == "algorithm1":
        return Algorithm1(
            estimator, args.seed, args.per_problem, args.positives, args.weigh_pairs, teacher=args.chosen_teacher
        )
    if args.pairing == "shared_prefix":
        options = {"rest": args.rejected_rest, "same_step": args.same_step}
        return SharedPrefix(estimator, args.seed, args.per_problem, args.positives, args.weigh_pairs, **options)
    segmentation = Segmentation(**made.manifest["settings"]["steps"])
    return Siblings(
        estimator,
        lambda prefix, ids: first_step([*prefix, *ids], tokenizer, task, segmentation, len(prefix)) - len(prefix),
        args.min_gap,
        args.min_rollouts,
        args.seed,
        args.per_problem,
        args.weigh_pairs,
    )


def _check_rollouts(args: argparse.Namespace, made: Run) -> None:
    """Raise unless there are rollouts enough for the Q that is asked for."""
    budget = Budget(**made.manifest["settings"]["budget"])
    siblings = args.arm == "step-dpo" and args.pairing == "siblings"
    of_pits = args.arm == "step-dpo" and not (
        siblings or args.pit or args.positives or args.weigh_pairs or args.best_of > 1
    )
    if budget.kind != "exhaustive" and not of_pits:
        raise UserError(
            f"{made.path} was valued with --value.budget {budget.kind}, which finds one pit an answer and nothing "
            "else: step-dpo alone, and no --pit, no --best_of, no --positives, no --weigh_pairs, no --pairing siblings"
        )
    needed, there = (
        (args.min_rollouts, "--min_rollouts")
        if siblings
        else (budget.n_rollouts, "the rollouts a prefix, --value.n_rollouts")
    )
    if needed < args.best_of and not args.best_of_biased:
        raise UserError(
            f"--best_of {args.best_of} needs as many as {there}, and that is {needed} (or --best_of_biased)"
        )
