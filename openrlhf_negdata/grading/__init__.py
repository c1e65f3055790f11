"""Is this answer right: graders that may never return, run in processes that can be killed.

>>> from openrlhf_negdata.tasks import load
>>> rows = [("18", "#### 18", "stop"), ("18", "#### 18", "length")]
>>> [graded.outcome for graded in grade_rows(load("gsm8k"), rows)]
['correct', 'truncated']
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from openrlhf_negdata.tasks import TIMED_OUT, TRUNCATED, Graded, Task

#: Seconds of wall time that a slow grader has for a row.
TIMEOUT = 10.0
#: A slow grader is shown this many last characters of a response: an answer stands at the end.
LONGEST_RESPONSE = 50_000
#: Grades remembered, so that equal answers to a problem are graded once. The oldest are forgotten first.
REMEMBERED = 10_000
#: Rows handed to the workers ahead of the oldest unfinished one, for each worker.
AHEAD = 64

_log = logging.getLogger(__name__)


def grade_rows(
    task: Task,
    rows: Iterable[tuple[str, str, str | None]],
    timeout: float = TIMEOUT,
    workers: int | None = None,
) -> Iterator[Graded]:
    """Grade ``(gold, response, finish_reason)`` rows lazily: one grade out for one row in, in the same order.

    A response with finish reason ``length`` is ``truncated`` whatever it says, and is not shown to the grader. A
    grader that raises or dies has given up: ``timed_out``, with a warning in the log. Nothing that a grader does ends
    the iteration.

    Where ``task.slow_grader`` is set, each row is graded in one of ``workers`` processes (default: the cores of this
    process), which is killed after ``timeout`` seconds of wall time on that row, waiting not counted: ``timed_out``.
    """
    if task.slow_grader:
        yield from _grade_in_processes(task, rows, timeout, workers or len(os.sched_getaffinity(0)))
        return
    for gold, response, finish_reason in rows:
        try:
            yield Graded(TRUNCATED, None) if finish_reason == "length" else task.grade(gold, response)
        except Exception as error:
            yield _gave_up(gold, error)


def _grade_in_processes(
    task: Task, rows: Iterable[tuple[str, str, str | None]], timeout: float, workers: int
) -> Iterator[Graded]:
    # A task may say what of a response its grade depends on. Samples that agree on it are then graded once.
    extract: Callable[[str], str | None] = getattr(task, "extract", lambda response: response)
    # Forked, because a fork imports nothing: not math-verify again after every kill, and not the caller's torch.
    pool = ProcessPool(
        workers, initializer=_begin, initargs=[task, timeout], context=multiprocessing.get_context("fork")
    )
    known: dict[tuple[str, str | None], ProcessFuture] = {}
    waiting: deque[tuple[str, ProcessFuture | None]] = deque()
    try:
        for gold, response, finish_reason in rows:
            if finish_reason == "length":
                waiting.append((gold, None))
            else:
                response = response[-LONGEST_RESPONSE:]
                key = (gold, extract(response))
                if key not in known:
                    known[key] = pool.schedule(_grade, args=[gold, response], timeout=timeout)
                    if len(known) > REMEMBERED:
                        del known[next(iter(known))]
                waiting.append((gold, known[key]))
            if len(waiting) >= AHEAD * workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        pool.stop()
        pool.join()


def _begin(task: Task, timeout: float) -> None:
    """In a new worker: take the task, and die at once when told to, even in the middle of C code."""
    global _task, _limit
    _task, _limit = task, timeout
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _grade(gold: str, response: str) -> Graded:
    """In a worker."""
    # The pool kills in time. If the pool itself was killed, the kernel ends a worker that would compute for ever.
    signal.setitimer(signal.ITIMER_REAL, _limit + 2)
    try:
        return _task.grade(gold, response)
    except BaseException as error:  # No interrupt is delivered here: whatever is raised, the grader raised it.
        return _gave_up(gold, error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _result(gold: str, future: ProcessFuture | None) -> Graded:
    if future is None:
        return Graded(TRUNCATED, None)
    try:
        return future.result()
    except FutureTimeout:
        return Graded(TIMED_OUT, None)
    except ProcessExpired as error:
        return _gave_up(gold, error)


def _gave_up(gold: str, error: BaseException) -> Graded:
    _log.warning("the grader gave up on a response with gold answer %r: %r", gold, error)
    return Graded(TIMED_OUT, None)


#: Set in workers only.
_task: Task
_limit: float
