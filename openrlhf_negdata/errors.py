"""What a user is meant to see when a command cannot go on: one line."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn


class UserError(Exception):
    """A bad argument or input. The message is one line: what, where, what to do. Commands exit with status 2 on it."""


#: What ends a command with one line and no traceback. An OSError says which file: no room, no permission.
ENDS = (UserError, OSError, ImportError, KeyboardInterrupt)


def end(command: str, error: BaseException) -> int:
    """Print the line for ``error``, one of ``ENDS``, that ended ``command``. Returns the exit status: 2, or 130 after
    Ctrl-C, as shells have it. Raises ``error`` again if it is no mistake of the user's."""
    if isinstance(error, KeyboardInterrupt):
        print(f"\n{command}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    told = str(error)
    if isinstance(error, ImportError):
        if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
            raise error  # a module of our own: a fault in this package
        told = f"{told}: `negdata doctor` says what is missing or off, and how to install it"
    print(f"{command}: error: {told}", file=sys.stderr)
    return 2


def leave(status: int) -> NoReturn:
    """End this process with ``status``. After Ctrl-C what is to be cleaned up is, but the interpreter is not taken
    down: torch, interrupted while it is imported, crashes there, and the status would be that of the crash."""
    if status == 130:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
