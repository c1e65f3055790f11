"""Answers that were made elsewhere, and what is known of their steps: from rows of a file to the records of a run.

:class:`Rows` reads them, :class:`Encoder` makes them token ids as the policy would have sampled them, and says why one
is dropped. What a row holds is explained by ``negdata import --help``.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openrlhf_negdata.datasets.own import Known
from openrlhf_negdata.forms import BadRow
from openrlhf_negdata.grading import check_finish_reason
from openrlhf_negdata.records import CORRECT, OUTCOMES, TRUNCATED, Graded, Problem, Rollout, StepValues, Trace
from openrlhf_negdata.rollouts.prompts import QUESTION, Prompting, end_tokens
from openrlhf_negdata.rollouts.sampling import decode_responses, encode_response
from openrlhf_negdata.steps.monte_carlo import Answer, Prefix
from openrlhf_negdata.steps.split import Segmentation, split_steps
from openrlhf_negdata.tasks import Task

#: What a response may have beside its text and its ids; of a row that holds a list of answers each is a list too.
_ABOUT = ("outcome", "correct", "finish_reason", "sample", "seed")
_OF_STEPS = ("steps", "step_ends", "step_correct", "step_count", "rollouts")


@dataclass(frozen=True)
class Said:
    """A response as it is given: text, ids or both, why it ended, and whether it is said to be right."""

    text: str | None
    ids: list[int] | None
    finish_reason: str | None
    right: bool | None
    seed: int | None


@dataclass(frozen=True)
class Given:
    """An answer as it is given. ``counts``: of the rollouts from before each step, how many were right and how many
    there were; ``rollouts``: these rollouts themselves."""

    problem: str
    sample: int
    line: int
    response: Said
    prompt: str | list[int] | None
    steps: list[str] | list[int] | None
    counts: tuple[list[int], list[int]] | None
    rollouts: list[list[Said]] | None

    @property
    def valued(self) -> bool:
        return self.counts is not None or self.rollouts is not None

    @property
    def least_rollouts(self) -> int:
        """The fewest rollouts from before a step."""
        return min(self.counts[1] if self.counts else map(len, self.rollouts or [[]]))


class Rows:
    """Reads the rows of a file. ``problems`` are those that the rows may answer, in order; they grow as rows bring
    their own, unless they were given."""

    def __init__(self, task: Task, problems: Sequence[Problem] | None = None) -> None:
        self.task = task
        self.problems = {problem.id: problem for problem in problems or ()}
        self.known = None if problems is None else Known(problems)
        self.asked: dict[str, str] = {}
        self.samples: dict[str, set[int]] = defaultdict(set)
        #: Whether rows have a prompt and no question; None before the first.
        self.verbatim: bool | None = None

    def answers(self, row: dict[str, Any], line: int) -> list[Given]:
        """The answers of a row: all of them, or none and a BadRow, ValueError or KeyError."""
        problem = self._problem(row, line)
        found = [self._answer(one, problem, line) for one in one_by_one(row)]
        new = [given.sample for given in found]
        if len({*new}) < len(new) or self.samples[problem] & {*new}:
            raise ValueError(f"two answers to problem {problem!r} are sample {new[0]}")
        self.samples[problem] |= {*new}
        return found

    def _problem(self, row: dict[str, Any], line: int) -> str:
        if self.known is not None:
            return self.known.problem(row)
        verbatim = "question" not in row
        question, gold = row["prompt" if verbatim else "question"], self.task.read_gold(row["gold"])
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"{'prompt' if verbatim else 'question'} is {question!r:.100}, not text")
        if self.verbatim not in (None, verbatim):
            raise ValueError("it has a prompt and no question, or others have: all rows have a question, or none has")
        name = str(row["problem"]) if "problem" in row else self.asked.setdefault(question, str(line))
        solution = row.get("solution")
        problem = Problem(name, question, gold, None if solution is None else str(solution))
        if self.problems.setdefault(name, problem) != problem:
            raise ValueError(f"problem {name!r} has another question, gold or solution than in an earlier row")
        self.verbatim = verbatim
        return name

    def _answer(self, row: dict[str, Any], problem: str, line: int) -> Given:
        steps = row.get("steps")
        if steps is not None:
            _check_list("steps", steps, str)
            row = {"response": "".join(steps)} | row
        counts = _counts(row)
        rollouts = row.get("rollouts")
        if rollouts is not None:
            if counts is not None:
                raise ValueError("it has step_correct and rollouts: give one of them, rollouts are counted here")
            _check_list("rollouts", rollouts, list)
            rollouts = [[_said(_one_rollout(one)) for one in made] for made in rollouts]
            if not rollouts or not all(rollouts):
                raise ValueError("rollouts: from before each step there must be one or more")
        ends = row.get("step_ends")
        if ends is not None:
            _check_list("step_ends", ends, int)
        sample = row.get("sample")
        if sample is None:
            sample = max(self.samples[problem], default=-1) + 1 + row.get("_number", 0)
        if type(sample) is not int or sample < 0:
            raise ValueError(f"sample is {sample!r}, not a number of 0 or more")
        prompt = row.get("prompt_ids", None if self.verbatim else row.get("prompt"))
        if not isinstance(prompt, (str, type(None))):
            _check_list("prompt_ids" if "prompt_ids" in row else "prompt", prompt, int)
        return Given(problem, sample, line, _said(row), prompt, ends or steps, counts, rollouts)


def one_by_one(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of a row that may hold a list of them, each as a row of its own."""
    texts, ids = row.get("response"), row.get("response_ids")
    many = isinstance(texts, list) or (isinstance(ids, list) and ids and all(isinstance(one, list) for one in ids))
    if not many:
        return [row]
    count = len(texts if isinstance(texts, list) else ids or ())
    if not count:
        raise BadRow("empty", "response is an empty list")
    columns = {name: row[name] for name in ("response", "response_ids", *_ABOUT, *_OF_STEPS) if name in row}
    if not all(isinstance(column, list) and len(column) == count for column in columns.values()):
        raise ValueError(f"it is a list of {count} answers, and one of {', '.join(columns)} is not")
    return [
        {**row, "_number": number} | {name: column[number] for name, column in columns.items()}
        for number in range(count)
    ]


def _one_rollout(given: Any) -> dict[str, Any]:
    """A rollout may be its text or its ids alone."""
    if isinstance(given, dict):
        return given
    return {"response" if isinstance(given, str) else "response_ids": given}


def _said(row: dict[str, Any]) -> Said:
    text, ids = row.get("response"), row.get("response_ids")
    if text is None and ids is None:
        raise ValueError("no field 'response' (text) or 'response_ids'")
    if not isinstance(text, (str, type(None))):
        raise ValueError(f"response is {text!r:.100}, not text")
    if ids is not None:
        _check_list("response_ids", ids, int)
    outcome, correct, reason = (row.get(name) for name in ("outcome", "correct", "finish_reason"))
    if outcome is not None and outcome not in OUTCOMES:
        raise BadRow("unknown_outcome", f"outcome {outcome!r} is none of {', '.join(OUTCOMES)}")
    if not isinstance(correct, (bool, type(None))):
        raise ValueError(f"correct is {correct!r:.100}, not true or false")
    if outcome is not None and correct not in (None, outcome == CORRECT):
        raise ValueError(f"outcome is {outcome}, and correct is {correct}")
    check_finish_reason(reason)
    if outcome == TRUNCATED and not reason:
        reason = "length"
    seed = row.get("seed")
    if type(seed) not in (int, type(None)):
        raise ValueError(f"seed is {seed!r:.100}, not a number")
    return Said(text, ids, reason or None, outcome == CORRECT if outcome is not None else correct, seed)


def _counts(row: dict[str, Any]) -> tuple[list[int], list[int]] | None:
    right: Any
    count: Any
    right, count = row.get("step_correct"), row.get("step_count")
    if right is None and count is None:
        return None
    _check_list("step_correct", right, int)
    count = [count] * len(right) if type(count) is int else count
    _check_list("step_count", count, int)
    if len(right) != len(count) or not right or min(count) < 1:
        raise ValueError(f"step_count is {count!r:.100}: of 1 or more rollouts from before each step, as step_correct")
    if any(not 0 <= some <= made for some, made in zip(right, count, strict=True)):
        raise ValueError(f"step_correct {right!r:.100} is not of the step_count {count!r:.100}")
    return right, count


def _check_list(name: str, value: Any, kind: type) -> None:
    # By its type: to isinstance, true is an integer.
    if not isinstance(value, list) or not {*map(type, value)} <= {kind}:
        raise ValueError(f"{name} is {value!r:.100}, not a list of {kind.__name__}")


@dataclass(frozen=True)
class Imported:
    """An answer as token ids. ``rollouts``: of each step, those from before it, with the text of the whole response
    they complete. ``trace`` and they are graded by :meth:`graded`."""

    given: Given
    trace: Trace
    step_ends: list[int]
    rollouts: list[list[tuple[list[int], str, Said]]]

    def responses(self) -> list[tuple[str, str | None, bool | None]]:
        """Text, finish reason, and whether it is said to be right, of the answer and of each of its rollouts."""
        made = [(text, said.finish_reason, said.right) for some in self.rollouts for _, text, said in some]
        return [(self.trace.text, self.trace.finish_reason, self.given.response.right), *made]

    def prefixes(self) -> list[Prefix]:
        """The response before each step."""
        return Answer(self.trace.token_ids or (), self.step_ends, False).prefixes()

    def graded(self, grade: Graded) -> Imported:
        return replace(self, trace=replace(self.trace, outcome=grade.outcome, answer=grade.answer))


class Encoder:
    """Makes answers token ids, exactly as the policy would have sampled them.

    Text is encoded apart from its prompt, and ends with the token that ends an answer where it is whole. Ids are taken
    as they are. Every method raises a BadRow with the reason to drop an answer for.
    """

    def __init__(
        self, tokenizer: Any, task: Task, prompting: Prompting, model: Path, max_tokens: int, steps: Segmentation
    ) -> None:
        self.tokenizer, self.task, self.max_tokens, self.segmentation = tokenizer, task, max_tokens, steps
        self.prompt = prompting.encoder(tokenizer, task)
        self.verbatim = Prompting(no_bos=prompting.no_bos, input_template=QUESTION).encoder(tokenizer, task)
        self.ends = end_tokens(tokenizer, model)
        self.end = prompting.end(tokenizer)
        self.known = {*tokenizer.get_vocab().values()}
        #: What is said of answers that are kept.
        self.notes: Counter[str] = Counter()

    def answer(self, given: Given, prompt_ids: list[int]) -> Imported:
        if given.prompt is not None and prompt_ids != (
            self.verbatim(given.prompt) if isinstance(given.prompt, str) else given.prompt
        ):
            raise BadRow("other_prompt", "its prompt is not the one that the question and the flags make")
        ids, text = self._response(given.response)
        reason = given.response.finish_reason or "stop"
        if reason == "stop" and ids[-1] not in self.ends:
            self.notes["whole answers of ids without an end token: where an answer ends is not learned of them"] += 1
        if given.response.finish_reason is None and given.response.ids is None:
            self.notes["answers of text without a finish_reason: they are taken to be whole"] += 1
        trace = Trace(given.problem, given.sample, prompt_ids, ids, text, reason)
        if not given.valued and given.steps is None:
            return Imported(given, trace, [], [])
        ends = self._steps(given, ids)
        starts = [0, *ends[:-1]]
        rollouts = [
            [(*self._response(said, ids[:start]), said) for said in made]
            for start, made in zip(starts, given.rollouts or (), strict=given.rollouts is not None)
        ]
        return Imported(given, trace, ends, rollouts)

    def _response(self, said: Said, before: Sequence[int] = ()) -> tuple[list[int], str]:
        """The ids of a response, or of a rollout from the tokens ``before`` it, and the text of the whole response."""
        whole = said.finish_reason in (None, "stop")
        begun = self._text(before)
        if said.ids is None:
            assert said.text is not None
            if not said.text.strip() and not before:
                raise BadRow("empty", "response is empty")
            ids = encode_response(self.tokenizer, begun + said.text, self.end)
            if ids[: len(before)] != list(before):
                raise BadRow("rollout_not_at_token", "a rollout's text joins the last token of what is before it")
            ids = ids[len(before) : None if whole else -1]
        else:
            ids = said.ids
            self._check_ids(ids, said.finish_reason)
        text = self._text([*before, *ids])
        if said.text is not None and text != begun + said.text:
            how = "the tokenizer makes other text of it" if said.ids is None else "response_ids are other text than"
            raise BadRow("text_changed", f"{how}: {begun + said.text!r:.200} comes back as {text!r:.200}")
        if len(before) + len(ids) > self.max_tokens:
            raise BadRow("over_long", f"it has {len(before) + len(ids)} tokens, over --rollout.max_new_tokens")
        return ids, text

    def _check_ids(self, ids: list[int], finish_reason: str | None) -> None:
        if not ids:
            raise BadRow("empty", "response_ids is empty")
        if not {*ids} <= self.known:
            raise BadRow("unknown_ids", "response_ids has ids that are none of the tokenizer's: of another model?")
        if self.ends & {*ids[:-1]}:
            raise BadRow("end_token_inside", "response_ids goes on after an end token: padding, or several turns")
        if finish_reason is None and ids[-1] not in self.ends:
            raise BadRow("end_unknown", "response_ids ends with no end token: give finish_reason, stop or length")

    def _steps(self, given: Given, ids: list[int]) -> list[int]:
        """Where the steps end: where --steps cuts, as rollouts will be, which must be where they are said to end."""
        ends = [end for _, end in split_steps(ids, self.tokenizer, self.task, self.segmentation)]
        said, cut = given.steps, list[Any](ends)
        if said and isinstance(said[0], str):
            edges, text = [len(self._text(ids[:end])) for end in (0, *ends)], self._text(ids)
            cut = [text[start:end] for start, end in itertools.pairwise(edges)]
        if said is not None and said != cut:
            raise BadRow("other_steps", f"its steps are {said!r:.200}, and --steps makes {cut!r:.200} of it")
        valued = len(given.rollouts or (given.counts or [ends])[0])
        if valued != len(ends):
            raise BadRow("other_steps", f"it has values of {valued} steps, and --steps cuts it into {len(ends)}")
        return ends

    def _text(self, ids: Sequence[int]) -> str:
        return decode_responses(self.tokenizer, [list(ids)])[0] if ids else ""


def step_values(
    answers: Sequence[Imported], grades: Mapping[int, Sequence[str]]
) -> tuple[dict[int, StepValues], list[Rollout]]:
    """The step values of the answers to one problem by sample, and the rollouts behind them. ``grades``: by sample,
    the outcomes of an answer's rollouts, in their order.

    Rollouts from a prefix that several answers share are put together; the same list of them counts once.
    """
    drawn: dict[Prefix, list[list[Rollout]]] = {}
    for one in answers:
        outcomes = iter(grades[one.trace.sample])
        for prefix, made in zip(one.prefixes(), one.rollouts, strict=False):  # of counted ones there are none here
            some = [
                Rollout(one.trace.problem, list(prefix), ids, next(outcomes), -1 if said.seed is None else said.seed)
                for ids, _, said in made
            ]
            if some not in drawn.setdefault(prefix, []):
                drawn[prefix].append(some)
    pooled = {prefix: [rollout for some in made for rollout in some] for prefix, made in drawn.items()}
    values = {}
    for one in answers:
        right, count = one.given.counts or ([], [])
        if one.rollouts:
            made_there = [pooled[prefix] for prefix in one.prefixes()]
            right = [sum(rollout.outcome == CORRECT for rollout in some) for some in made_there]
            count = [len(some) for some in made_there]
        values[one.trace.sample] = StepValues(one.trace.problem, one.trace.sample, one.step_ends, right, count)
    numbered = (enumerate(some) for some in pooled.values())
    return values, [
        rollout if rollout.seed >= 0 else replace(rollout, seed=number)
        for some in numbered
        for number, rollout in some
    ]
