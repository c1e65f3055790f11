"""Turn problems, graded answers and step values into a training set, and write a card beside it that accounts for
every one.

    negdata build sft      --input FOLDER --task gsm8k --tokenizer MODEL --output sft.jsonl
    negdata build rft      --input graded --output rft.jsonl
    negdata build siblings --input values --output step_dpo.jsonl
    negdata build ARM --help                          what an arm is made of, and its flags; also docs/sets.md
    negdata build my_arm.py --input values ...        an arm of your own: a Python file that ends with `arm = MyArm`

--input is a run folder of `negdata sample`, `grade` or `value`, or a folder of your own with problems.jsonl and, for
rft and dpo, traces.jsonl: rows of `negdata grade` with "problem", the id of their problem, or "question", its text.
Most arms are made of step values. Problems that lie elsewhere, or in another form, are named by --problems_from:

    negdata build sft --task gsm8k --problems_from hf:openai/gsm8k:main:train --output sft.jsonl

Rows of the set hold text and token ids: those that were sampled, or, of a folder of your own, those that --tokenizer
makes of its text. Without --tokenizer such a set is text alone, for OpenRLHF's own trainers. The card is
OUTPUT.card.md.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

from openrlhf_negdata import flags, ownfile
from openrlhf_negdata.datasets import arms, hub
from openrlhf_negdata.datasets.build import Sizes, beside, build
from openrlhf_negdata.datasets.rows import Arm
from openrlhf_negdata.datasets.source import Source
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import BadRowError, Output, Reading, source_name
from openrlhf_negdata.forms import ACCEPTED, file_named, rows_of
from openrlhf_negdata.help import HelpFormatter
from openrlhf_negdata.models import load_tokenizer, tokenizer_files
from openrlhf_negdata.rollouts import prompts
from openrlhf_negdata.rollouts.prompts import Prompting
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.tasks import Task, load

#: Columns of an arm's name in the help.
_WIDE = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arm", help="which training set: one of those below, or the path of a .py file")
    parser.add_argument(
        "flags", nargs=argparse.REMAINDER, metavar="...", help="its flags: `negdata build ARM --help` explains them"
    )
    parser.epilog = "arms:\n" + "\n".join(f"  {name:<{_WIDE}}{arms.about(name)}" for name in arms.names())


def run(args: argparse.Namespace) -> None:
    kind = arms.load(args.arm)
    given = _parse(args.arm, kind, args.flags)
    arm = flags.made(kind, given, seed=given.seed)
    folder, output, sizes = _input(given), Path(given.output), _sizes(given)
    hub_folder = hub.Folder(Path(given.local_dir), output) if given.local_dir else None
    made = Run.open(folder) if folder and (folder / "manifest.json").is_file() else None
    task = _task(given.task, made)
    files = _files(output, args.arm, arm, given, folder, made, task)
    if files.complete:
        print(f"{output} is complete")
    else:
        reading = Reading(given.skip_bad_rows)
        try:
            prompting, tokenizer = _text(vars(given), made)
            source = Source(folder, task, tokenizer, prompting, arm.tables, given.problems_from, reading)
            command = f"negdata build {shlex.join([args.arm, *args.flags])}"
            print("\n".join(build(args.arm, arm, source, files, sizes, reading, command)))
        except BadRowError as error:
            how = "" if given.skip_bad_rows else " (--skip_bad_rows leaves such rows out)"
            raise UserError(f"{error}{how}") from None
        files.commit()
    if hub_folder:
        hub_folder.write()
    if given.push_to_hub:
        hub.push(given.push_to_hub, output)


def _parse(name: str, kind: type[Arm], words: list[str]) -> argparse.Namespace:
    """The flags of all arms and those of this one. UserError for a flag of another arm, with the arms it is of."""
    parser = argparse.ArgumentParser(
        prog=f"negdata build {name}", description=_about(kind), formatter_class=HelpFormatter, allow_abbrev=False
    )
    flags.add_flags(parser.add_argument_group("the arm"), kind)
    _add_input(parser.add_argument_group("what it is made of"), kind)
    _add_sizes(parser.add_argument_group("how much"))
    given, unknown = parser.parse_known_args(words)
    for word in unknown:
        flag = word.partition("=")[0].removeprefix("--")
        owners = [other for other in arms.names() if flag in flags.flags_of(arms.load(other))]
        if word.startswith("--") and owners:
            raise UserError(f"--{flag} is for {', '.join(owners)}, not for {name}")
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return given


def _about(kind: type[Arm]) -> str:
    """What the docstring of an arm says, its flags as they are written on the command line."""
    known = flags.flags_of(kind)
    written = inspect.cleandoc(kind.__doc__ or "")
    return re.sub(r"``(\w+)``", lambda found: f"--{found[1]}" if found[1] in known else found[1], written)


def _add_input(group: argparse._ArgumentGroup, kind: type[Arm]) -> None:
    made_of = "a run folder, or one of your own with problems.jsonl"
    if "values" in kind.tables:
        made_of = "a run folder of `negdata value`"
    elif kind.tables:
        made_of = "a run folder of `negdata grade` or `value`, or one of your own with problems.jsonl and traces.jsonl"
    group.add_argument("--input", default=None, help=made_of)
    group.add_argument(
        "--problems_from",
        default=None,
        help=f"the problems, if a folder of your own has no problems.jsonl: {ACCEPTED}",
    )
    group.add_argument("--output", required=True, help="the .jsonl file to write, its card beside it")
    group.add_argument(
        "--task",
        default=None,
        help="what the problems are; a run folder says so itself, but for the file of a task of your own",
    )
    group.add_argument(
        "--tokenizer", default=None, help="model folder whose tokenizer makes the ids; a run has its own"
    )
    prompts.add_flags(group)
    group.add_argument(
        "--model.trust_remote_code", action="store_true", help="run Python code that the tokenizer carries"
    )
    group.add_argument(
        "--skip_bad_rows",
        action="store_true",
        help="leave out bad rows of your own files, count them on the card and list them in OUTPUT.dropped.jsonl; "
        "without it the first one is an error",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="decides what is drawn at random, and the order of the rows"
    )
    group.add_argument("--local_dir", default=None, help="write a folder for the Hugging Face hub too: set and card")
    group.add_argument(
        "--push_to_hub",
        default=None,
        metavar="NAME",
        help="send that folder to the hub, as the data set NAME (a new one is private)",
    )


def _add_sizes(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--problems",
        type=int,
        default=-1,
        help="so many of the problems, by --seed; a larger number adds to them. -1: all",
    )
    group.add_argument("--size", type=int, default=-1, help="so many rows; a larger number adds to them. -1: all")
    group.add_argument(
        "--data.max_len",
        type=int,
        default=-1,
        help="leave out rows whose prompt and longest side have more tokens, before --size; -1: none",
    )
    group.add_argument(
        "--validation",
        type=float,
        default=0.0,
        help="share of the problems whose rows go to OUTPUT's name with .validation before its suffix",
    )
    group.add_argument(
        "--decontaminate",
        nargs="+",
        default=[],
        metavar="FILE",
        help="leave out problems that stand, whole or in part, in these test sets: files, or any form of "
        "--problems_from",
    )
    group.add_argument(
        "--ngram", type=int, default=13, help="words in a row that a question may not have in common with a test set"
    )


def _sizes(given: argparse.Namespace) -> Sizes:
    max_len = vars(given)["data.max_len"]
    if max_len == 0 or max_len < -1:
        raise UserError(f"--data.max_len must be -1 or at least 1, not {max_len}")
    if not 0 <= given.validation <= 1:
        raise UserError(f"--validation must lie between 0 and 1, not {given.validation}")
    return Sizes(given.problems, given.size, max_len, given.validation, given.decontaminate, given.ngram, given.seed)


def _input(given: argparse.Namespace) -> Path | None:
    """The input folder; None where problems that lie elsewhere are all there is."""
    if given.input is None:
        if given.problems_from is None:
            raise UserError("--input FOLDER is needed, or --problems_from where problems are all there is")
        return None
    folder = Path(given.input)
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    files = (folder / "manifest.json", file_named(folder, "problems"))
    own = next((file.name for file in files if file.is_file()), None)
    if given.problems_from and own:
        raise UserError(f"--problems_from {given.problems_from}: {folder} has problems of its own ({own})")
    if not given.problems_from and not own:
        raise UserError(f"no such file: {folder / 'problems.jsonl'} (--problems_from says where else they are)")
    return folder


def _task(name: str | None, made: Run | None) -> Task:
    if made is not None:
        return made.task(name)
    if name is None:
        raise UserError("--task is needed: the input folder was not made by `negdata sample`")
    return load(name)


def _text(given: dict[str, Any], made: Run | None) -> tuple[Prompting, Any]:
    """How prompts are written, and the tokenizer if there is one. A run was sampled with both, and its set must be
    trained on as it was sampled."""
    trust, said = given["model.trust_remote_code"], prompts.read_flags(given)
    own = load_tokenizer(given["tokenizer"], trust) if given["tokenizer"] else None
    if made is None:
        if said.chat_template and own is not None and not own.chat_template:
            raise UserError(f"--data.apply_chat_template: {given['tokenizer']}: it has no chat template")
        if own is not None:
            prompts.check_fit(said, own, Path(own.name_or_path))
        return said, own
    tokenizer, sampled = made.tokenizer(trust), Prompting(**made.sampled.get("prompting", {}))
    if said not in (Prompting(), sampled):
        raise UserError(f"{made.path} was sampled with {sampled}: its sets follow it, leave those flags out")
    if own is not None and (own.get_vocab(), own.chat_template) != (tokenizer.get_vocab(), tokenizer.chat_template):
        raise UserError(f"--tokenizer {given['tokenizer']}: {made.path} was sampled with another, which it carries")
    return sampled, tokenizer


def _files(
    output: Path, name: str, arm: Arm, given: argparse.Namespace, folder: Path | None, made: Run | None, task: Task
) -> Output:
    """The set and what stands beside it, and all that decides their content."""
    settings: dict[str, Any] = {"command": "build", "arm": name, **flags.in_force(arm), "task": task.identity}
    if name.endswith(".py"):
        settings |= {"arm": Path(name).name, "arm_file": ownfile.digest(Path(name).read_bytes())}
    settings["input"] = made.manifest["settings"] if made else _digests(folder, given.problems_from)
    for flag in (
        "seed",
        "skip_bad_rows",
        "problems",
        "size",
        "data.max_len",
        "validation",
    ):
        settings[flag] = vars(given)[flag]
    settings["prompting"] = vars(prompts.read_flags(vars(given)))
    settings["decontaminate"] = {source_name(test): digest_of(test) for test in given.decontaminate}
    settings["ngram"] = given.ngram if given.decontaminate else None
    if given.tokenizer:
        files = tokenizer_files(Path(given.tokenizer)) if Path(given.tokenizer).is_dir() else []
        settings["tokenizer"] = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    own = [file_named(folder, part) for part in ("problems", "traces")] if folder else []
    read = filter(None, (given.problems_from, given.task, name if name.endswith(".py") else None))
    return Output(output, settings, inputs=[*own, *read, *given.decontaminate], beside=beside(output))


def _digests(folder: Path | None, problems_from: str | None) -> dict[str, str]:
    """The content of a folder that no command of ours made, and of problems that lie elsewhere."""
    digests = {source_name(problems_from): digest_of(problems_from)} if problems_from else {}
    for file in (file_named(folder, name) for name in ("problems", "traces")) if folder else ():
        if file.is_file():
            digests[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return digests


def digest_of(source: str) -> str:
    """The content of a file, a folder or an ``hf:`` name: of its rows, bad ones too."""
    digest = hashlib.sha256()
    for _, number, row in rows_of(source):
        digest.update(f"{number} {row!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
