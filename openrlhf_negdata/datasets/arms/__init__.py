"""The arms, one file each: a file here is an arm of that name, and ends with ``arm = MyArm``.

An arm is a dataclass, a subclass of :class:`openrlhf_negdata.datasets.rows.Arm`. Its flags are its fields
(:mod:`openrlhf_negdata.flags`). One of your own is a Python file of the same kind, named by its path:
``negdata build my_arm.py``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

from openrlhf_negdata import ownfile
from openrlhf_negdata.datasets.rows import Arm
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.flags import flags_of


def names() -> list[str]:
    """The built-in arms."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def about(name: str) -> str:
    """What a built-in arm is, in one line: what its file says first, which is read and not run."""
    code = Path(__file__).with_name(f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    told = " ".join((ast.get_docstring(ast.parse(code)) or "").split()).partition("``: ")[2]
    return re.split(r"[.;:] | \(|\.\Z", told)[0]


def load(name: str) -> type[Arm]:
    """The arm called ``name``, or the ``arm`` defined by the Python file at path ``name``."""
    if not name.endswith(".py"):
        if name not in names():
            raise UserError(f"unknown arm: {name} (built in: {', '.join(names())}; or the path of a .py file)")
        return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").arm
    if not Path(name).is_file():
        raise UserError(f"no such arm file: {name}")
    arm = getattr(ownfile.run("arm", str(Path(name).absolute()), Path(name).read_bytes()), "arm", None)
    if not (isinstance(arm, type) and issubclass(arm, Arm)):
        raise UserError(f"{name} defines no `arm`: end it with `arm = MyArm`, a subclass of Arm")
    _check_own(name, arm)
    return arm


def _check_own(name: str, arm: type[Arm]) -> None:
    try:
        inspect.signature(arm.rows).bind("self", "known", "account")
    except TypeError:
        raise UserError(f"{name}: `rows` must take (self, known, account)") from None
    flags = flags_of(arm)
    for field, kind in vars(arm).get("__annotations__", {}).items():
        default = vars(arm).get(field)
        if type(default) in (bool, int, float, str) and field not in flags and "ClassVar" not in str(kind):
            raise UserError(
                f"{name}: {field} is no flag: write `{field} = flag({default!r}, 'its help')` in a @dataclass, or "
                f"annotate it as a ClassVar if it is to be none"
            )
