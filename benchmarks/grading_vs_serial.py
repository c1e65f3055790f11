r"""How long it takes to grade real responses: the package's Grader against the loop that most repositories have.

  python benchmarks/grading_vs_serial.py --data /path/to/gsm8k --rows 20000 --workers 2

The rows are GSM8K's published model solutions (model_solutions.jsonl; a sample of 150 is in tests/data), repeated in
order up to --rows, the final answer put into \boxed{...}. Every side grades the same rows in the same run:

  serial      one process, math-verify with its defaults: verify(parse(gold), parse(response))
  task        one process, the same rows by our task `math`, which reads the box only and knows equal strings as equal
  Grader      the same task in --workers processes that can be killed, their start included. The memo is off: no grade
              is remembered, or repeated rows would cost nothing
  with memo   as Grader, with the memo as users have it. How much it saves depends on how often the rows repeat

Then rows that hang a grader are mixed in: each may make the run longer by its wall limit, --timeout, and a new worker,
and may cost no other row its grade. The serial loop has no part in that, because it would never end: math-verify's
alarm does not stop arithmetic on huge integers.

The last line is `ratio N.NN`: the time of `serial` over the time of `Grader`. Use as many idle cores as --workers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from math_verify import parse, verify
from tqdm import tqdm

from openrlhf_negdata import grading
from openrlhf_negdata.records import CORRECT, TIMED_OUT
from openrlhf_negdata.tasks import load

SAMPLE = Path(__file__).parents[1] / "tests" / "data" / "gsm8k"
#: Each runs for hours: numbers of more digits than memory holds, in C code that no signal interrupts.
HANGING = [
    *(rf"\boxed{{{base}^{{{base}^{{{base}^{{{base}^{{{base}}}}}}}}}}}" for base in range(3, 13)),
    *(rf"\boxed{{{base}^{{9^{{9^{{9}}}}}} + 1}}" for base in range(2, 7)),
    *(rf"\boxed{{\frac{{1}}{{7^{{8^{{9^{{{top}}}}}}}}}}}" for top in range(5, 10)),
]
MATH = load("math")

Row = tuple[str, str, str | None]


def read(folder: Path, count: int) -> list[Row]:
    """``count`` rows of gold answer, response and finish reason."""
    rows: list[Row] = []
    with open(folder / "model_solutions.jsonl", encoding="utf-8") as file:
        for published in map(json.loads, file):
            gold = published["ground_truth"].rpartition("A: ")[2].strip()
            text, _, answer = published["solution"].strip().rpartition("A: ")
            rows.append((gold, f"{text}A: \\boxed{{{answer}}}", "stop"))
    return list(itertools.islice(itertools.cycle(rows), count))


def serial(rows: Iterable[Row]) -> list[bool]:
    return [bool(verify(parse(f"\\boxed{{{gold}}}"), parse(response))) for gold, response, _ in rows]


def task_alone(rows: Iterable[Row]) -> list[bool]:
    return [MATH.grade(gold, response).outcome == CORRECT for gold, response, _ in rows]


def timed(what: str, grade: Callable[[Iterable[Row]], list], rows: list[Row]) -> tuple[float, list]:
    start = time.monotonic()
    grades = grade(tqdm(rows, desc=what, unit="row", disable=None, leave=False))
    seconds = time.monotonic() - start
    print(f"{what:10} {seconds:8.1f} s  {1000 * seconds / len(rows):7.2f} ms a row", flush=True)
    return seconds, grades


def same(rows: list[Row], expected: list, grades: list) -> None:
    for (gold, response, _), should, grade in zip(rows, expected, grades, strict=True):
        if grade != should:
            raise SystemExit(f"graded as {should}, then as {grade}: gold {gold}, answer {MATH.extract(response)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SAMPLE, help="a folder with GSM8K's model_solutions.jsonl")
    parser.add_argument("--rows", type=int, default=20_000, help="responses to grade; a few hundred for a quick look")
    parser.add_argument("--workers", type=int, default=2, help="processes of the Grader, one a core")
    parser.add_argument("--hanging", type=int, default=20, help=f"rows that hang, at most {len(HANGING)}")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds of wall time that a row has")
    args = parser.parse_args()
    hanging = HANGING[: args.hanging]
    # It warns about every box that it cannot read.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    rows = read(args.data, args.rows)
    different = len(set(rows))
    equal = sum(gold == MATH.extract(response) for gold, response, _ in rows)
    print(f"{len(rows)} rows, {different} of them different; gold and answer are equal strings in {equal}")

    def grader(rows: Iterable[Row]) -> list[grading.Graded]:
        return list(grading.grade_rows(MATH, rows, args.timeout, args.workers))

    serial_seconds, by_serial = timed("serial", serial, rows)
    _, by_task = timed("task", task_alone, rows)
    remembered, grading.REMEMBERED = grading.REMEMBERED, 0
    grader_seconds, graded = timed("Grader", grader, rows)
    grading.REMEMBERED = remembered
    memo_seconds, with_memo = timed("with memo", grader, rows)
    grading.REMEMBERED = 0
    print(f"the memo makes it {grader_seconds / memo_seconds:.2f} times as fast again, on these rows")

    same(rows, by_task, [grade.outcome == CORRECT for grade in graded])
    same(rows, graded, with_memo)
    outcomes = Counter(grade.outcome for grade in graded)
    differ = sum(right != ours for right, ours in zip(by_serial, by_task, strict=True))
    print(f"grades: {dict(outcomes)}; the serial loop differs on {differ}")

    if hanging:
        every = max(1, len(rows) // len(hanging))
        mixed = list(rows)
        for number, response in reversed(list(enumerate(hanging))):
            mixed.insert(number * every, ("5", response, "stop"))
        mixed_seconds, mixed_grades = timed("hanging", grader, mixed)
        others = [grade for row, grade in zip(mixed, mixed_grades, strict=True) if row[1] not in hanging]
        same(rows, graded, others)
        given_up = sum(grade.outcome == TIMED_OUT for grade in mixed_grades)
        each = (mixed_seconds - grader_seconds) / len(hanging)
        print(
            f"{len(hanging)} rows that hang, {given_up} timed out; all other grades are the same; each made the run "
            f"{each:.2f} s longer, {each - args.timeout:+.2f} s against its limit of {args.timeout:g} s"
        )

    print(f"ratio {serial_seconds / grader_seconds:.2f}")


if __name__ == "__main__":
    main()
