"""Which releases of OpenRLHF this package is built on."""

from __future__ import annotations

from importlib import metadata

from openrlhf_negdata.errors import UserError

#: The one release whose every hook is tested (tests/contract). 0.11.0 and 0.11.1 fail one of those tests: their
#: SFTTrainer resumes at the wrong row.
OPENRLHF = "0.11.2"


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
