"""Dataclasses whose fields are flags of a command line: the parser, the check and the record are made from them.

    @dataclass
    class Longest(Arm):
        least: int = flag(1, "fewest tokens of an answer", least=1)

A field that :func:`flag` made is a flag of that name, behind the ``prefix`` of a command that has sections of flags;
its type is that of its default. Other fields are none.
"""

from __future__ import annotations

import argparse
import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from openrlhf_negdata.errors import UserError

T = TypeVar("T")
_LIMITS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "least": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "most": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def flag(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    only: tuple[str, Callable[[Any], bool]] | None = None,
    **limits: float,
) -> Any:
    """A field of a dataclass that is a flag. A default of None stands for a string that was not given.

    ``limits``: ``least``, ``most``, ``above`` or ``below``. ``only``: with which other flag it counts, in words, and
    whether it does, of the dataclass that was made.
    """
    assert limits.keys() <= _LIMITS.keys(), limits
    about = {"help": help, "choices": choices, "only": only, "limits": limits}
    return dataclasses.field(default=default, metadata={"flag": about})


def flags_of(kind: type | Any) -> dict[str, dataclasses.Field]:
    """The fields of a dataclass that are flags, by name."""
    return {field.name: field for field in dataclasses.fields(kind) if "flag" in field.metadata}


def add_flags(parser: argparse._ActionsContainer, kind: type, prefix: str = "") -> None:
    """Give ``parser`` the flags of ``kind``. One that is not given leaves no trace in what is parsed."""
    for name, field in flags_of(kind).items():
        about, default = field.metadata["flag"], field.default
        more: dict[str, Any] = {"action": "store_true"}
        told = about["help"]
        if not isinstance(default, bool):
            more = {"type": str if default is None else type(default), "choices": about["choices"]}
            told += "" if default in (None, -1) else f" (default: {default})"
        parser.add_argument(f"--{prefix}{name}", default=argparse.SUPPRESS, help=told, **more)


def made(kind: Callable[..., T], args: argparse.Namespace, prefix: str = "", **more: Any) -> T:
    """The dataclass that the flags in ``args`` ask for; ``more``: fields that are no flags.

    Raises:
        UserError: a value is out of its limits, or a flag was given that does not count beside the others.
    """
    given = {name: vars(args)[prefix + name] for name in flags_of(kind) if prefix + name in vars(args)}
    one = kind(**given, **more)
    for name, value in given.items():
        about = flags_of(kind)[name].metadata["flag"]
        for limit, bound in about["limits"].items():
            says, holds = _LIMITS[limit]
            if not holds(value, bound):
                raise UserError(f"--{prefix}{name} must be {says} {bound}, not {value}")
        if about["choices"] and value not in about["choices"]:
            raise UserError(f"--{prefix}{name} must be one of {', '.join(about['choices'])}, not {value}")
        if not _counts(one, about):
            raise UserError(f"--{prefix}{name} counts with {about['only'][0]} alone")
    return one


def in_force(one: Any) -> dict[str, Any]:
    """The flags of a dataclass that count, defaults among them, and their values."""
    return {name: getattr(one, name) for name, field in flags_of(one).items() if _counts(one, field.metadata["flag"])}


def _counts(one: Any, about: dict[str, Any]) -> bool:
    return about["only"] is None or about["only"][1](one)
