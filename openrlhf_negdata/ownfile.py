"""A Python file of the user's, a task's or an arm's: known by its content, and run from it."""

from __future__ import annotations

import hashlib
import sys
import traceback
from types import ModuleType

from openrlhf_negdata.errors import UserError


def digest(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()[:16]


def run(kind: str, path: str, code: bytes) -> ModuleType:
    """The module that ``code``, the content of the file ``path``, makes; ``kind`` (task or arm) is for the user.

    Not by importlib, which may take a file that was edited within a second for the one that it compiled before.
    UserError, with the file's line, where it cannot be run.
    """
    module = ModuleType(f"negdata_{kind}_{digest(code)}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses look there for the module of a class
    try:
        exec(compile(code, path, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        if isinstance(error, SyntaxError) and error.filename == path:
            lines.append(error.lineno)
        where = f"{path}:{lines[-1]}" if lines else path
        says = " ".join(traceback.format_exception_only(error)[-1].split())
        raise UserError(f"{where}: the {kind} file cannot be run: {says:.300}") from error
    return module
