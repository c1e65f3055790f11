"""Scorers of others that evaluate what a policy wrote: an answer may be arithmetic there, and nothing more.

``eval(answer)``, and sympy's ``parse_expr`` and ``sympify``, which call it, would run any Python that a policy writes.
Python tells its audit hooks of every code object before it runs (PEP 578): within :func:`guarded` one that was
compiled from a text may use operators, literals, variables and sympy's own classes; no attribute, no import, no
built-in function and none of sympy's.
"""

from __future__ import annotations

import builtins
import dis
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

#: sympy's own functions that a formula is written with.
_FORMULAS = {"sqrt", "cbrt", "root", "real_root"}


class _State(threading.local):
    on = False
    refused = ""


_state = _State()


@contextmanager
def guarded() -> Iterator[None]:
    """Let no text that is evaluated meanwhile in this thread do more than arithmetic; ValueError at the end if one
    wanted to, though whoever evaluated it may have passed over that."""
    _watch()
    _state.on, _state.refused = True, ""
    try:
        yield
    finally:
        _state.on = False
        if _state.refused:
            raise ValueError(f"the answer is code that is not run: {_state.refused}")


@cache
def _watch() -> None:
    sys.addaudithook(_hear)  # for the life of this process: Python takes none back


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "exec" or not _state.on or not isinstance(arguments[0], CodeType):
        return
    code = arguments[0]
    # The code of a module has the path of its file.
    if code.co_filename.startswith("<") and not code.co_filename.startswith("<frozen") and (why := _reaches(code)):
        _state.refused = why
        raise ValueError(why)


def _reaches(code: CodeType) -> str:
    """What in ``code`` reaches beyond arithmetic; empty if nothing does."""
    if code.co_names == ("sympy",):
        return ""  # sympy's own "from sympy import *"
    for step in dis.get_instructions(code):
        if any(part in step.opname for part in ("ATTR", "METHOD", "IMPORT")):
            return f"it uses {step.argval!r:.100}"
    for name in code.co_names:
        function = isinstance(getattr(sys.modules.get("sympy"), name, None), (FunctionType, ModuleType))
        if name.startswith("_") or hasattr(builtins, name) or (function and name not in _FORMULAS):
            return f"it calls {name!r:.100}"
    inner = (_reaches(part) for part in code.co_consts if isinstance(part, CodeType))
    return next(filter(None, inner), "")
