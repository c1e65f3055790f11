"""What this package is built on: the release of OpenRLHF, and a Ray that takes nothing from the caller."""

from __future__ import annotations

import os
import signal
import threading
from importlib import metadata
from typing import Any

from openrlhf_negdata.errors import UserError

#: The one release whose every hook is tested (tests/contract). 0.11.0 and 0.11.1 fail one of those tests: their
#: SFTTrainer resumes at the wrong row.
OPENRLHF = "0.11.2"

#: Makes a Ray node end what its dead workers leave behind.
SUBREAPER = "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper"


def check_release() -> None:
    """Raise unless that release is installed: another may have moved what we build on, and train wrongly in
    silence."""
    try:
        found = "openrlhf " + metadata.version("openrlhf")
    except metadata.PackageNotFoundError:
        found = "no openrlhf"
    if found.partition("+")[0] != f"openrlhf {OPENRLHF}":
        raise UserError(
            f"{found} is installed, and openrlhf {OPENRLHF} is the release this package supports: `negdata doctor` "
            "says how to install it"
        )


def init_ray(address: str, **options: Any) -> Any:
    """``ray.init``. A Ray of our own (``address`` "local") ends what its dead workers leave behind: vLLM's engine
    process outlives an actor that is killed, and holds its memory.

    Where ``SUBREAPER`` is set, Ray makes the kernel forget the children of every process that joins it: here too every
    command run from then on would seem to have succeeded. So the variable and SIGCHLD are put back as they were.
    """
    import ray

    handler = signal.getsignal(signal.SIGCHLD)
    before = os.environ.get(SUBREAPER)
    if address == "local":
        os.environ.setdefault(SUBREAPER, "true")
    try:
        return ray.init(address=address, **options)
    finally:
        if before is None:
            os.environ.pop(SUBREAPER, None)
        if threading.current_thread() is threading.main_thread():  # No other may, and none is told.
            signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
