r"""Make a run folder of answers that were made elsewhere, which `value` and every arm of `build` take.

  negdata import --task gsm8k --input answers.jsonl --model.model_name_or_path MODEL --rollout.temperature 0.7 \
    --output imported

A row of the input is an answer:

  question        what was asked; or prompt, all of it (with --data.apply_chat_template: the user's turn). Rows of one
                  question answer one problem; `problem` may name it. Beside a question, prompt or prompt_ids must be
                  what question and flags make.
  gold            the right answer; `solution`, a teacher's, if there is one. With --problems, rows name theirs by
                  `problem`, its id, or by `question`, and need no gold.
  response        its text, or response_ids, its token ids, or both; a list where it is of several answers
  finish_reason   stop, or length where it ran out of tokens. Text without one is taken to be whole; ids without one
                  must end with an end token.
  outcome         or correct, true or false, if it is known. --task's grader decides; where it disagrees, that is said.
  sample          its number among the answers to its problem, if it has one

and, where its steps were valued, all that follow being optional:

  rollouts        from before each step a list of rollouts: each its text, its ids, or an object with response or
                  response_ids, finish_reason, outcome, seed. They are graded by the task.
  step_correct    without them: how many rollouts from before each step were right, of step_count of them
  steps           the texts of its steps, which join to the response; or step_ends, in tokens of response_ids: where
                  --steps must cut it

Text becomes the ids that the policy would have sampled: encoded by the model's tokenizer, apart from its prompt, with
the end token of a whole answer. What comes back from the ids as other text is dropped, as is what no policy can have
sampled; all that is dropped is counted by reason and listed in OUTPUT/dropped.jsonl: in = kept + dropped. Where some
answers have step values, those without are dropped, and the output is a run of values; else `negdata value` may
follow.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openrlhf_negdata import models
from openrlhf_negdata.cli.build import digest_of
from openrlhf_negdata.cli.grade import add_grader_flags, check_grader_flags, warn_of_no_answers
from openrlhf_negdata.cli.sample import add_policy_flags, max_response_tokens, read_sampling
from openrlhf_negdata.cli.value import WHICH, choose
from openrlhf_negdata.datasets.imported import Encoder, Given, Imported, Rows, step_values
from openrlhf_negdata.datasets.rows import Account
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import BadRowError, Reading, read_problems, read_rows, source_name, write_jsonl
from openrlhf_negdata.forms import ACCEPTED, BadRow
from openrlhf_negdata.grading import grade_rows
from openrlhf_negdata.records import CORRECT, NO_ANSWER, OUTCOMES, Problem
from openrlhf_negdata.rollouts import prompts
from openrlhf_negdata.rollouts.prompts import QUESTION, Prompting
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS
from openrlhf_negdata.tasks import Task, load

#: Of each answer with step values, none is left out but by its outcome, or because it is there already.
EVERY = {f"value.{name}": -1 if name.endswith("per_problem") else False for name in WHICH}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", required=True, help="what the problems are: a built-in task, or the path of a .py file"
    )
    parser.add_argument("--input", required=True, help=f"the answers: {ACCEPTED}")
    parser.add_argument("--problems", help="the problems they answer, if the rows do not hold them: any such form")
    parser.add_argument(
        "--model.model_name_or_path", required=True, help="the policy that wrote the answers, or is to be trained"
    )
    parser.add_argument("--model.trust_remote_code", action="store_true", help="run Python code that it carries")
    parser.add_argument("--output", type=Path, required=True, help="the run folder to write")
    parser.add_argument(
        "--rollout.temperature",
        type=float,
        required=True,
        help="that the answers were sampled at: `negdata value` draws its rollouts at it",
    )
    add_policy_flags(parser)
    add_grader_flags(parser)
    parser.add_argument(
        "--steps", choices=tuple(PRESETS), default="task", help="where the steps of answers with step values end"
    )
    parser.add_argument(
        "--skip_bad_rows",
        action="store_true",
        help="leave out malformed rows and count them; without it the first one is an error",
    )
    parser.add_argument("--shard_size", type=int, default=256, help="problems a shard")


@dataclass
class Read:
    """What was read: the problems, the answers that are kept, and what became of all others."""

    problems: list[Problem]
    answers: list[Imported]
    account: Account
    #: Line and reason of what is dropped.
    dropped: list[tuple[int, str]]
    #: What a reason says of the first answer that was dropped for it.
    told: dict[str, str]
    notes: Counter[str]
    prompting: Prompting
    #: Of answers with step values, the fewest rollouts from before a step; 0 where there are none.
    rollouts: int

    def drop(self, line: int, reason: str, says: str = "") -> None:
        self.account.drop(reason)
        self.dropped.append((line, reason))
        self.told.setdefault(reason, f"{line}: {says}" if says else "")


def run(args: argparse.Namespace) -> None:
    flags = vars(args)
    check_grader_flags(args)
    if args.shard_size < 1:
        raise UserError(f"--shard_size must be at least 1, not {args.shard_size}")
    sampling, task = read_sampling(flags), load(args.task).graded_by(args.grading)
    model = models.check_model(flags["model.model_name_or_path"], flags["model.trust_remote_code"])
    tokenizer = models.load_tokenizer(str(model), flags["model.trust_remote_code"])
    max_tokens = max_response_tokens(task, flags)
    read = _read(args, task, tokenizer, model, max_tokens)
    settings = {
        "task": task.identity,
        "model": models.revision(model),
        "sampling": vars(sampling),
        "max_tokens": max_tokens,
        "prompting": vars(read.prompting),
        "grading": args.grading,
        "timeout": args.timeout,
        "shard_size": args.shard_size,
        "skip_bad_rows": args.skip_bad_rows,
        "imported": {source_name(name): digest_of(name) for name in (args.input, args.problems) if name},
    }
    if read.rollouts:
        budget = Budget(n_rollouts=read.rollouts)
        settings |= {"budget": asdict(budget), "steps": asdict(PRESETS[args.steps])}
    if (args.output / "manifest.json").is_file():  # grading may take long: not to be done again, nor for nothing
        output = Run.create(args.output, "import", settings, read.problems, model, task)
        if output.complete:
            print(f"{args.output} is complete: {output.manifest['counts']}")
            return
    graded = _graded(read, task, args)
    if not read.answers:
        raise UserError(f"{args.input}: no answer is left (dropped: {dict(read.account.dropped)}){_examples(read)}")
    output = Run.create(args.output, "import", settings, read.problems, model, task)
    _write(output, read, graded, args.shard_size)
    _tell(output, read, task)


def _read(args: argparse.Namespace, task: Task, tokenizer: Any, model: Path, max_tokens: int) -> Read:
    """Read the rows and make their answers token ids."""
    flags, reading = vars(args), Reading(args.skip_bad_rows)
    rows = Rows(task, read_problems(args.problems, task) if args.problems else None)
    try:
        given = list(itertools.chain.from_iterable(read_rows(args.input, rows.answers, reading)))
    except BadRowError as error:
        raise UserError(f"{error} (--skip_bad_rows leaves such rows out)") from None
    if not given and not reading.left_out:
        raise UserError(f"{args.input}: no rows in it")
    prompting = _prompting(flags, rows)
    prompts.check_fit(prompting, tokenizer, model)
    encoder = Encoder(tokenizer, task, prompting, model, max_tokens, PRESETS[args.steps])
    valued = [one for one in given if one.valued]
    fewest = min((one.least_rollouts for one in valued), default=0)
    problems = list(rows.problems.values())
    read = Read(problems, [], Account("answers"), [], {}, encoder.notes, prompting, fewest)
    for _, _, line, reason in reading.left_out:
        read.drop(line, reason)
    asked = {problem.id: encoder.prompt(problem.question) for problem in problems}
    if asked:
        models.check_length(model, {name: len(ids) for name, ids in asked.items()}, max_tokens)
    for one in tqdm(given, desc="import", unit="answer", disable=None):
        _keep(read, encoder, one, asked[one.problem])
    return read


def _keep(read: Read, encoder: Encoder, given: Given, prompt_ids: list[int]) -> None:
    if read.rollouts and not given.valued:
        read.drop(given.line, "without_step_values")
        return
    try:
        read.answers.append(encoder.answer(given, prompt_ids))
    except BadRow as bad:
        read.drop(given.line, bad.reason, str(bad))


def _prompting(flags: dict[str, Any], rows: Rows) -> Prompting:
    """How the questions were asked; where rows hold whole prompts, these are their questions."""
    said = prompts.read_flags(flags)
    if not rows.verbatim:
        return said
    if said.input_template is not None:
        raise UserError("--data.input_template: the rows hold their prompts, which no template is put around")
    return Prompting(said.chat_template, said.no_bos, said.system_prompt, QUESTION)


@dataclass
class Graded:
    """The answers of each problem, graded; the outcomes of the rollouts of each, by sample."""

    answers: dict[str, list[Imported]] = field(default_factory=dict)
    rollouts: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    #: Responses that the file says are right, and the grader says are not; and the other way; an example of each.
    not_right: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)


def _graded(read: Read, task: Task, args: argparse.Namespace) -> Graded:
    gold = {problem.id: problem.gold for problem in read.problems}
    responses = ((one, said) for one in read.answers for said in one.responses())
    rows = ((gold[one.trace.problem], text, reason) for one, (text, reason, _) in responses)
    grades = grade_rows(task, rows, args.timeout, args.workers)
    found = Graded()
    for one in tqdm(read.answers, desc="grade", unit="answer", disable=None):
        outcomes = []
        for number, (_, _, right) in enumerate(one.responses()):
            grade = next(grades)
            outcomes.append(grade.outcome)
            if right is not None and right != (grade.outcome == CORRECT):
                (found.not_right if right else found.right).append(one.given.line)
            if number == 0:
                found.answers.setdefault(one.trace.problem, []).append(one.graded(grade))
        found.rollouts.setdefault(one.trace.problem, {})[one.trace.sample] = outcomes[1:]
    next(grades, None)  # a grader that raised on every response says so at its end
    _warn_of_disagreement(found)
    return found


def _warn_of_disagreement(found: Graded) -> None:
    for lines, said, graded in ((found.not_right, "right", "not"), (found.right, "not right", "right")):
        if lines:
            print(
                f"WARNING: {len(lines):,} responses are said to be {said}, and the grader of the task finds them "
                f"{graded}, such as in row {lines[0]}. The grader's outcomes are taken, as rollouts are graded by it: "
                "look at some, and give another --task or --grading if it is wrong",
                file=sys.stderr,
            )


def _write(output: Run, read: Read, graded: Graded, size: int) -> None:
    problems = [problem.id for problem in read.problems if problem.id in graded.answers]
    shards = [problems[i : i + size] for i in range(0, len(problems), size)]
    output.expect(len(shards))
    for number, names in enumerate(shards):
        traces, values, rollouts = [], [], []
        for name in names:
            answers = graded.answers[name]
            kept = [one.trace for one in answers]
            if read.rollouts:
                kept = list(_valued(read, answers))
                samples = {trace.sample for trace in kept}
                of_them = [one for one in answers if one.trace.sample in samples]
                by_sample, made = step_values(of_them, graded.rollouts[name])
                values += [by_sample[trace.sample] for trace in kept]
                rollouts += made
            read.account.keep(len(kept))
            traces += kept
        output.write("rollouts", number, rollouts)
        output.write("traces", number, traces)
        output.write("values", number, values)
    write_jsonl(output.path / "dropped.jsonl", ({"line": line, "reason": reason} for line, reason in read.dropped))
    outcomes = output.outcomes("traces")
    counts = {"in": read.account.total, "traces": read.account.kept}
    counts |= {outcome: outcomes[outcome] for outcome in OUTCOMES if outcomes[outcome]}
    counts |= {f"dropped_{reason}": count for reason, count in sorted(read.account.dropped.items())}
    counts |= {"rollouts": output.outcomes("rollouts").total()} if read.rollouts else {}
    counts |= {"said_right_graded_not": len(graded.not_right), "said_wrong_graded_right": len(graded.right)}
    output.finish(counts)


def _valued(read: Read, answers: Sequence[Imported]) -> Iterator[Any]:
    """Those of the graded answers to a problem that `negdata value` would have valued, in its order."""
    dropped = Counter[str]()
    kept = choose([one.trace for one in answers], EVERY, dropped)
    samples = {trace.sample for trace in kept}
    for one in answers:
        if one.trace.sample not in samples:
            reason = str(one.trace.outcome)
            read.drop(one.given.line, reason if dropped[reason] else "duplicate")
    yield from kept


def _tell(output: Run, read: Read, task: Task) -> None:
    account = read.account
    print(
        f"{output.path}: {account.total} answers in, {account.kept} kept, "
        f"dropped {dict(sorted(account.dropped.items())) or 'none'}{_examples(read)}"
    )
    outcomes = output.outcomes("traces")
    print(", ".join(f"{outcomes[outcome]} {outcome}" for outcome in OUTCOMES))
    for note, count in read.notes.items():
        print(f"{count:,} {note}", file=sys.stderr)
    unread = (trace.text for trace in output.read("traces") if trace.outcome == NO_ANSWER)
    warn_of_no_answers(task, outcomes, next(unread, ""))


def _examples(read: Read) -> str:
    return "".join(f"\n  {reason}: such as row {told}" for reason, told in sorted(read.told.items()) if told)
