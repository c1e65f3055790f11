"""What every builder shares: what is known of a problem, rows of a training set, an account of all that went in."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.flags import flag
from openrlhf_negdata.records import CORRECT, NO_ANSWER, WRONG, Problem, Rollout, StepValues, Trace, content_seed
from openrlhf_negdata.steps.monte_carlo import Budget
from openrlhf_negdata.steps.split import PRESETS, Segmentation
from openrlhf_negdata.steps.values import Estimator
from openrlhf_negdata.tasks import Task

Row = dict[str, Any]
T = TypeVar("T")


@dataclass
class Answered:
    """A problem, the answers to it, and where they were valued their step values and the rollouts behind them.

    ``teacher`` is the problem's solution as if it were an answer, number -1; None without one. Its ids, and
    ``prompt_ids``, are None where there is no tokenizer. ``teacher_values`` are its step values if it was valued.
    """

    problem: Problem
    prompt: str
    prompt_ids: list[int] | None
    teacher: Trace | None
    traces: list[Trace]
    values: list[StepValues] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)
    teacher_values: StepValues | None = None

    def valued(self) -> Iterator[tuple[Trace, StepValues]]:
        traces = {trace.sample: trace for trace in self.traces}
        for values in self.values:
            yield traces[values.sample], values

    def right(self) -> list[Trace]:
        return [trace for trace in self.traces if trace.outcome == CORRECT]

    def rng(self, seed: int, *purpose: object) -> random.Random:
        return random.Random(content_seed(seed, *purpose, self.problem.id))


@dataclass(frozen=True)
class Valuing:
    """How step values were made: with which budget, of steps cut how, whether of the teacher's solutions too, and
    whether the rollouts behind them are there."""

    budget: Budget
    segmentation: Segmentation = PRESETS["task"]
    solutions: bool = False
    rollouts: bool = True


@dataclass
class Origin:
    """Where the answers of a set come from, as far as arms ask: what that is called in messages, the task, the
    policy's tokenizer if there is one, and how steps were valued if they were."""

    name: str
    task: Task
    tokenizer: Any | None = None
    valuing: Valuing | None = None


@dataclass
class Account:
    """What went in, counted once each under ``kept`` or under the reason it was dropped for."""

    unit: str
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def keep(self, count: int = 1) -> None:
        self.kept += count

    def drop(self, reason: str, count: int = 1) -> None:
        if count:
            self.dropped[reason] += count

    def cap(self, taken: int, count: int) -> None:
        """``taken`` of ``count`` are kept, as many as --per_problem allows."""
        self.keep(taken)
        self.drop("over_per_problem", count - taken)

    def add(self, other: Account) -> None:
        self.kept += other.kept
        self.dropped.update(other.dropped)

    @property
    def total(self) -> int:
        return self.kept + self.dropped.total()


@dataclass
class Arm:
    """A training set. Subclasses say how the rows of one problem are made, and of what; their fields that
    :func:`openrlhf_negdata.flags.flag` made are flags of ``negdata build``. ``seed`` decides what is drawn."""

    seed: int = 0

    #: The tables it is made of besides the problems: traces, values, rollouts.
    tables: ClassVar[tuple[str, ...]] = ("traces",)
    #: What the account counts.
    unit: ClassVar[str] = "answers"
    #: Whether its rows hold token ids, where there is a tokenizer.
    ids: ClassVar[bool] = True
    #: Rows a problem at most, and whether problems that give fewer are left out: flags of a :class:`Limited` arm.
    per_problem = -1
    balanced = False

    @property
    def estimator(self) -> Estimator:
        """What Q and advantages are, of an arm made of step values."""
        return Estimator()

    def parts(self) -> list[Arm]:
        """The arms whose rows make the set, each with an account of its own; the first decides ``balanced``."""
        return [self]

    def begin(self, origin: Origin) -> None:
        """Take what is needed from the input: its tokenizer, its task. UserError if it cannot be made of it."""

    def units(self, known: Answered) -> int:
        """How many ``unit`` a problem brings."""
        return len(known.traces)

    def prepare(self, problems: Iterable[Answered]) -> None:
        """Look at all problems before the first row, where one depends on them all."""

    def rows(self, known: Answered, account: Account) -> Iterable[Row]:
        """The rows of one problem; every unit of it is counted in ``account``."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Sentences for the card and the terminal, once all rows are made."""
        return []


@dataclass
class Limited(Arm):
    """An arm that may give many rows a problem."""

    per_problem: int = flag(-1, "rows a problem at most, drawn by --seed where there are more; -1: all", least=-1)
    balanced: bool = flag(
        False,
        "leave out problems that give fewer than --per_problem rows",
        only=("--per_problem N, 1 or more,", lambda arm: arm.per_problem > 0),
    )


@dataclass
class ValuedArm(Arm):
    """An arm made of step values: it accounts for the answers that were valued."""

    best_of: int = flag(1, "Q is that of the best of this many rollouts; the paper's is 5", least=1)
    best_of_biased: bool = flag(
        False,
        "by 1 - (1 - c/n)^K, which needs fewer rollouts and is lower on average",
        only=("--best_of 2 or more", lambda arm: arm.best_of > 1),
    )

    tables: ClassVar[tuple[str, ...]] = ("traces", "values")
    unit: ClassVar[str] = "valued answers"
    #: Budgets of `negdata value` whose values it can be made of.
    budgets: ClassVar[tuple[str, ...]] = ("exhaustive",)

    @property
    def estimator(self) -> Estimator:
        return Estimator(best_of=self.best_of, biased=self.best_of_biased)

    def begin(self, origin: Origin) -> None:
        assert origin.valuing is not None
        budget = origin.valuing.budget
        if budget.kind not in self.budgets:
            raise UserError(f"{origin.name} {made_for(budget)}")
        count, what = self.rollouts_a_value(budget)
        if count < self.best_of and not self.best_of_biased:
            raise UserError(
                f"--best_of {self.best_of} needs as many as {what}, and that is {count} (or --best_of_biased)"
            )

    def rollouts_a_value(self, budget: Budget) -> tuple[int, str]:
        """How many rollouts a value is made of, and what says so."""
        return budget.n_rollouts, "the rollouts a prefix, --value.n_rollouts"

    def units(self, known: Answered) -> int:
        return len(known.values)


def made_for(budget: Budget) -> str:
    """What the values of a budget that is not exhaustive can be used for alone."""
    use = {
        "sequential": "finds one pit an answer and nothing else: of the arms, algorithm1 and shared-prefix alone",
        "race": "compares next steps and does nothing else: of the arms, siblings alone",
    }
    return f"was valued with --value.budget {budget.kind}, which {use[budget.kind]}"


def content(trace: Trace) -> object:
    """What two answers to a problem share if they are the same."""
    return trace.text if trace.token_ids is None else tuple(trace.token_ids)


def distinct(known: Answered, account: Account) -> tuple[list[Trace], list[Trace]]:
    """The distinct right and wrong answers to a problem, in the order they were sampled."""
    seen: dict[object, Trace] = {}
    for trace in known.traces:
        if trace.outcome not in (CORRECT, WRONG, NO_ANSWER):
            account.drop(str(trace.outcome))
        elif content(trace) in seen:
            account.drop("duplicate")
        else:
            seen[content(trace)] = trace
    right = [trace for trace in seen.values() if trace.outcome == CORRECT]
    return right, [trace for trace in seen.values() if trace.outcome != CORRECT]


def drawn(some: Sequence[T], limit: int, rng: random.Random) -> list[T]:
    """``limit`` of them at random, all where it is negative or there are no more."""
    return list(some) if limit < 0 else rng.sample(some, min(limit, len(some)))


def drawn_in_order(some: Sequence[T], limit: int, rng: random.Random) -> list[T]:
    """Those that :func:`drawn` gives, in the order they were in."""
    return [some[i] for i in sorted(drawn(range(len(some)), limit, rng))]


def no_pair(chosen: Sequence[int] | None, rejected: Sequence[int] | None) -> str | None:
    """Why two continuations are no pair: one is the beginning of the other. The tokens they share cancel in the loss,
    exactly, so that nothing of the shorter is learned. None where they differ at some token, or are text, which the
    trainer ends with a token of its own."""
    if chosen is None or rejected is None:
        return None
    shorter = min(len(chosen), len(rejected))
    if list(chosen[:shorter]) != list(rejected[:shorter]):
        return None
    if len(chosen) == len(rejected):
        return "equal"
    return "rejected_begins_chosen" if len(rejected) == shorter else "chosen_begins_rejected"


def capped(pairs: Iterable[Row | str], per_problem: int, rng: random.Random, account: Account) -> list[Row]:
    """The pairs of a problem, at most ``per_problem``; what gave no pair is dropped for the reason it comes with."""
    found = []
    for row in pairs:
        if isinstance(row, str):
            account.drop(row)
        else:
            found.append(row)
    taken = drawn_in_order(found, per_problem, rng)
    account.cap(len(taken), len(found))
    return taken


def source(trace: Trace) -> str:
    """Where a side comes from, as rows say it."""
    return "teacher" if trace.sample < 0 else f"answer {trace.sample}"


def sft_row(known: Answered, trace: Trace, **figures: Any) -> Row:
    """A prompt and a whole response, as text and, where they are known, as ids (the end-of-sequence token among
    them)."""
    row: Row = {"problem": known.problem.id, "prompt": known.prompt, "response": trace.text, "from": source(trace)}
    if known.prompt_ids is not None and trace.token_ids is not None:
        row |= {"prompt_ids": known.prompt_ids, "response_ids": trace.token_ids}
    return row | figures


def pair_row(known: Answered, chosen: Trace, rejected: Trace, **figures: Any) -> Row:
    """A prompt and two whole responses."""
    row: Row = {
        "problem": known.problem.id,
        "prompt": known.prompt,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "chosen_from": source(chosen),
        "rejected_from": source(rejected),
    }
    if known.prompt_ids is not None and chosen.token_ids is not None and rejected.token_ids is not None:
        row |= {"prompt_ids": known.prompt_ids, "chosen_ids": chosen.token_ids, "rejected_ids": rejected.token_ids}
    return row | figures


def ids_pair_row(
    known: Answered, shared: Sequence[int], chosen: Sequence[int], rejected: Sequence[int], **figures: Any
) -> Row:
    """A prompt with the shared beginning of a response, and a chosen and a rejected continuation of it; their text is
    decoded when they are written."""
    row: Row = {"problem": known.problem.id, "prompt": "", "chosen": "", "rejected": ""}
    ids = ([*(known.prompt_ids or ()), *shared], list(chosen), list(rejected))
    return row | dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), ids, strict=True)) | figures


def readable(row: Row, tokenizer: Any) -> Row:
    """The row with the text that its ids decode to: of a prompt, the sides of a pair, and a response that has none.
    Any other response keeps the text it was graded by."""
    for name in ("prompt", "chosen", "rejected"):
        if f"{name}_ids" in row:
            row[name] = tokenizer.decode(
                row[f"{name}_ids"], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
    if not row.get("response", True) and "response_ids" in row:
        row["response"] = tokenizer.decode(
            row["response_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    return row
