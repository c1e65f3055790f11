"""Is this answer right: graders that may never return, run in processes that can be killed.

>>> from openrlhf_negdata.tasks import load
>>> rows = [("18", "#### 18", "stop"), ("18", "#### 18", "length")]
>>> [graded.outcome for graded in grade_rows(load("gsm8k"), rows)]
['correct', 'truncated']
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from threading import Lock

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.grading.worker import Raised
from openrlhf_negdata.records import CORRECT, FAILED, NO_ANSWER, TIMED_OUT, TRUNCATED, WRONG, Graded
from openrlhf_negdata.tasks import Task

#: Seconds of wall time that a slow grader has for a row.
TIMEOUT = 10.0
#: A slow grader is shown this many last characters of a response: an answer stands at the end.
LONGEST_RESPONSE = 50_000
#: Grades remembered, so that equal answers to a problem are graded once. The oldest are forgotten first.
REMEMBERED = 10_000
#: Rows handed to the workers ahead of the oldest unfinished one, for each worker: work while that one hangs.
AHEAD = 256
#: Rows sent to a worker together, at most: a trip costs as much as an easy grade, and neighbours share a gold answer.
TOGETHER = 16

#: What vLLM and servers call the end of an answer that is not whole.
CUT_OFF = ("length", "abort", "error", "repetition", "content_filter", "tool_calls")
#: What a task's grader may find.
GRADES = (CORRECT, WRONG, NO_ANSWER)

_log = logging.getLogger(__name__)


class Grader:
    """Grades responses one by one, from any thread; a context manager.

    Where ``task.slow_grader`` is set, each row is graded in one of at most ``workers`` processes (default: the cores
    of this process), started as they are needed. A worker is killed after ``timeout`` seconds of wall time on a row,
    waiting not counted: ``timed_out``. A row whose worker was killed by something else is graded once more.

    The workers are forked from a clean process that has imported the task, never from this one, which may hold vLLM
    and many threads. They do not outlive this process, however it ends.
    """

    def __init__(self, task: Task, timeout: float = TIMEOUT, workers: int | None = None) -> None:
        _check_has_grader(task)
        self.task, self.timeout = task, timeout
        self.workers = workers or len(os.sched_getaffinity(0))
        self._pickled = pickle.dumps((task, timeout)) if task.slow_grader else b""
        self._queue: deque[_Row] = deque()
        self._busy = 0
        # A thread for each worker hands it rows, and waits for a grade or for the end of the row's time.
        self._threads = ThreadPoolExecutor(self.workers, "grader")
        self._idle: list[tuple[Connection, int]] = []
        self._lock = Lock()
        self._server: _ForkServer | None = None
        self._known: dict[tuple[str, str | None], Future[Graded]] = {}
        self._closed = False
        #: Answers the task's grader was shown, those it raised on, and what it raised last.
        self.shown, self.raised, self.last_raised = 0, 0, ""

    def submit(self, gold: str, response: str, finish_reason: str | None) -> Future[Graded]:
        """The grade of ``response`` against ``gold``, at once or later: ``await asyncio.wrap_future(...)``.

        A response is whole where its finish reason is ``stop``, or not known (None or empty). With any other
        (``length``, or vLLM's ``abort``) it is ``truncated`` whatever it says, and is not shown to the grader. A
        grader that raises or dies has ``failed``, with a warning in the log. The future cannot be
        cancelled, as others may wait for the same grade. It raises UserError where no worker can be started or where
        the task's grader returns what is no grade, and CancelledError where the grader is closed first.
        """
        if finish_reason not in ("stop", "", None):
            return _resolved(Graded(TRUNCATED, None))
        try:
            if not self.task.slow_grader:
                return self._checked(gold, self.task.grade(gold, response))
            response = response[-LONGEST_RESPONSE:]
            # Where the grade is made of what is extracted, samples that agree on that are graded once.
            of_answer = type(self.task).grade is Task.grade
            key = (gold, self.task.extract(response) if of_answer else response)
        except Exception as error:
            return self._checked(gold, Raised(repr(error)))
        with self._lock:
            if key in self._known:
                return self._known[key]
            future: Future[Graded] = Future()
            future.set_running_or_notify_cancel()
            if self._busy < self.workers:
                self._threads.submit(self._grade_queued)
                self._busy += 1
            self._queue.append(_Row(future, key, response))
            self._known[key] = future
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
            return future

    def close(self) -> None:
        """Kill the workers. What is not graded yet raises CancelledError."""
        with self._lock:
            self._closed = True
            if self._server is not None:
                self._server.kill()
                self._server = None
        self._threads.shutdown()
        for pipe, _ in self._idle:
            pipe.close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grade_queued(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._busy -= 1
                    return
                share = -(-len(self._queue) // self.workers)
                rows = deque(self._queue.popleft() for _ in range(min(share, TOGETHER)))
            try:
                while rows:
                    self._grade_in_worker(rows)
            except BaseException as error:
                with self._lock:
                    for row in rows:
                        self._known.pop(row.key, None)
                for row in rows:
                    row.future.set_exception(error)

    def _grade_in_worker(self, rows: deque[_Row]) -> None:
        """Take each of ``rows`` out as it is graded, until all are or the worker is dead."""
        pipe, process = self._take_worker()
        try:
            pipe.send([(row.key[0], row.response) for row in rows])
            while rows:
                if not pipe.poll(self.timeout):
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                    pipe.close()
                    rows.popleft().future.set_result(Graded(TIMED_OUT, None))
                    return
                reply = pipe.recv()
                row = rows.popleft()
                self._checked(row.key[0], reply, row.future)
        except (EOFError, OSError):
            pipe.close()
            # A worker that was killed, by the kernel when memory is short, says nothing about its row: once more.
            if rows[0].died:
                row = rows.popleft()
                row.future.set_result(_gave_up(row.key[0], "its worker died, twice"))
            else:
                rows[0].died = True
            return
        self._idle.append((pipe, process))

    def refuse_if_all_raised(self) -> None:
        """Raise where the grader of a task of one's own raised on every answer: it is the grader that is wrong."""
        if self.task.source and self.shown and self.raised == self.shown:
            raise UserError(
                f"the grader of {self.task.source} raised on each of {self.shown} answers, at last {self.last_raised}"
            )

    def _checked(self, gold: str, reply: object, future: Future[Graded] | None = None) -> Future[Graded]:
        """``future`` with what a grader replied: a grade, what it raised, or what is neither, which is an error."""
        future = future or Future()
        with self._lock:
            self.shown += 1
            if isinstance(reply, Raised):
                self.raised += 1
                self.last_raised = reply
        if isinstance(reply, Raised):
            future.set_result(_gave_up(gold, reply))
        elif isinstance(reply, Graded) and reply.outcome in GRADES and isinstance(reply.answer, (str, type(None))):
            future.set_result(reply)
        else:
            future.set_exception(
                UserError(
                    f"the grader of {self.task.source or self.task.name} returned {reply!r:.200}: it must return "
                    f"Graded(outcome, answer), the outcome one of {', '.join(GRADES)}, the answer text or None"
                )
            )
        return future

    def _take_worker(self) -> tuple[Connection, int]:
        """A worker that is alive and idle: the pipe to it, and its process id."""
        with suppress(IndexError):
            while True:
                pipe, process = self._idle.pop()
                if not pipe.poll():
                    return pipe, process
                # There is nothing to read from a worker that was given nothing, unless it died.
                pipe.close()
        for _ in range(2):  # The fork server may have been killed too.
            with self._lock:
                if self._closed:
                    raise CancelledError
                server = self._server = self._server or _ForkServer(self._pickled)
                pipe = server.fork()
            try:
                return pipe, pipe.recv()
            except (EOFError, OSError):
                with self._lock:
                    if self._server is server:
                        server.kill()
                        self._server = None
        raise UserError(f"no worker can grade {self.task.name}: the error stands above, on stderr")


def _check_has_grader(task: Task) -> None:
    own = type(task)
    if own.grade is Task.grade and (own.extract is Task.extract or own.is_right is Task.is_right):
        raise UserError(
            f"{task.source or own.__name__} has no grader: a task has a method grade(gold, response), or "
            "extract(response) and is_right(gold, answer)"
        )


@dataclass
class _Row:
    future: Future[Graded]
    #: The gold answer, and what of the response the grade depends on.
    key: tuple[str, str | None]
    response: str
    died: bool = False


class _ForkServer:
    """The process that runs :func:`openrlhf_negdata.grading.worker.serve`."""

    def __init__(self, pickled: bytes) -> None:
        self._control, theirs = Pipe()
        code = (
            "import sys; descriptor, *sys.path = sys.argv[1:]; "
            "from openrlhf_negdata.grading.worker import serve; serve(int(descriptor))"
        )
        with theirs:
            # The group of a new session holds the server and its workers and nothing else: it is killed as one.
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        with suppress(OSError):  # Where it has died already, forking says so.
            self._control.send_bytes(pickled)

    def fork(self) -> Connection:
        """The pipe to a new worker. Its first word is its process id; it is at its end if there is no worker."""
        ours, theirs = Pipe()
        with theirs, suppress(OSError):
            send_handle(self._control, theirs.fileno(), None)
        return ours

    def kill(self) -> None:
        self._control.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def check_finish_reason(reason: object) -> None:
    """ValueError where a user's row has a finish reason of which it is not known whether the answer is whole."""
    if not isinstance(reason, (str, type(None))):
        raise ValueError(f"finish_reason is {reason!r}, not text or null")
    if reason not in ("stop", "", None, *CUT_OFF):
        raise ValueError(
            f"finish_reason {reason!r} is none of stop, {', '.join(CUT_OFF)}: where an answer is whole, write stop"
        )


def grade_rows(
    task: Task,
    rows: Iterable[tuple[str, str, str | None]],
    timeout: float = TIMEOUT,
    workers: int | None = None,
) -> Iterator[Graded]:
    """Grade ``(gold, response, finish_reason)`` rows lazily: one grade out for one row in, in the same order.

    See :class:`Grader` for the rest. UserError where the task's grader returns what is no grade, or is of the user's
    own and raises on every row; nothing else that it does ends the iteration.
    """
    waiting: deque[Future[Graded]] = deque()
    with Grader(task, timeout, workers) as grader:
        # Of a task of one's own, one grade is held back to the end: then it is known whether its grader always raised.
        held_back = 1 if task.source else 0
        for row in rows:
            waiting.append(grader.submit(*row))
            if len(waiting) > held_back and (waiting[0].done() or len(waiting) >= AHEAD * grader.workers):
                yield waiting.popleft().result()
        while waiting:
            graded = waiting.popleft().result()
            if not waiting:
                grader.refuse_if_all_raised()
            yield graded


def _resolved(graded: Graded) -> Future[Graded]:
    future: Future[Graded] = Future()
    future.set_result(graded)
    return future


def _gave_up(gold: str, error: object) -> Graded:
    _log.warning("the grader gave up on a response with gold answer %.100r: %.1000s", gold, error)
    return Graded(FAILED, None)
