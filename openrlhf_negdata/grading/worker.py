"""The other side of :class:`openrlhf_negdata.grading.Grader`: a clean process that has imported the task, and the
workers forked from it.

Not multiprocessing's fork server: a process has only one, which others use too, and each of its workers first runs the
main module of the owner again, which imports Ray in an actor and never ends in a script without a main guard.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from openrlhf_negdata.records import Graded
from openrlhf_negdata.tasks import Task


class Raised(str):
    """What a task's grader raised, in words."""


def serve(descriptor: int) -> None:
    """Read the task from the socket ``descriptor``, then fork a worker for each pipe that comes over it.

    Runs in a process group of its own, which ends when the owner closes the socket or is gone.
    """
    control = Connection(descriptor)
    task, timeout = pickle.loads(control.recv_bytes())
    task.warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel forgets a worker that has ended.
    while True:
        try:
            pipe = recv_handle(control)
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)
        if os.fork() == 0:
            control.close()
            _work(Connection(pipe), task, timeout)
        os.close(pipe)


def _work(pipe: Connection, task: Task, timeout: float) -> None:
    """Say one's process id, then answer each ``(gold, response)`` with a grade, or with what the grader raised."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with suppress(EOFError, OSError):  # The owner has closed the pipe, or is gone.
        pipe.send(os.getpid())
        while True:
            for gold, response in pipe.recv():
                reply = _grade(task, gold, response, timeout)
                # Of what is no grade the words are enough: it may hold what cannot be sent.
                pipe.send(reply if isinstance(reply, (Graded, Raised)) else repr(reply))
    sys.exit()


def _grade(task: Task, gold: str, response: str, timeout: float) -> object:
    # The owner kills in time. If it and the fork server were killed, the kernel ends what would compute for ever.
    signal.setitimer(signal.ITIMER_REAL, timeout + 2)
    try:
        return task.grade(gold, response)
    except BaseException as error:  # No interrupt is delivered here: whatever is raised, the grader raised it.
        return Raised(repr(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
