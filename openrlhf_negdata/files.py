"""Rows in, from JSON Lines and other forms, and JSON Lines out: bad rows are named by file and line, files appear
whole or not at all, and nothing takes the place of a file that is not ours."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import random
import re
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.forms import BadRow, rows_of, rows_of_file
from openrlhf_negdata.records import Problem

if TYPE_CHECKING:
    from openrlhf_negdata.tasks import Task

Row = TypeVar("Row")


class BadRowError(UserError):
    """The first bad row of a user's file, where none may be left out."""


@dataclass
class Reading:
    """What became of the rows of a user's files. Unless ``skip_bad_rows``, the first bad one is an error.

    ``kept`` counts the others by the file, folder or data set they are of; ``left_out`` lists the bad ones: that name,
    the file, the line and the reason.
    """

    skip_bad_rows: bool = False
    kept: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, str, int, str]] = field(default_factory=list)

    def leave_out(self, source: str, file: str, number: int, bad: BadRow) -> None:
        if not self.skip_bad_rows:
            raise BadRowError(f"{file}:{number}: malformed row: {bad}")
        self.left_out.append((source, file, number, bad.reason))


def read_file(path: str | Path, parse: Callable[[dict[str, Any], int], Row]) -> Iterator[Row]:
    """``parse(row, number)`` of every row of the file ``path``, in any form that :mod:`openrlhf_negdata.forms` reads,
    lazily; ``number`` is its line in JSON Lines, whose blank lines are passed over. Bytes of JSON and CSV that are not
    UTF-8 come through, and go out again as they were.

    Raises:
        UserError: the file is missing, or a row is malformed or lacks what ``parse`` looks up (with its number).
    """
    for file, number, row in rows_of_file(Path(path), "surrogateescape"):
        try:
            if isinstance(row, BadRow):
                raise row
            parsed = _parsed(parse, row, number)
        except BadRow as bad:
            raise UserError(f"{file}:{number}: malformed row: {bad}") from None
        yield parsed


def read_rows(
    source: str | Path, parse: Callable[[dict[str, Any], int], Row], reading: Reading | None = None
) -> Iterator[Row]:
    """``parse(row, number)`` of every row of a user's file, folder or ``hf:`` name, lazily. ``number`` is the line of
    the row in its file, and goes on from file to file."""
    reading = reading or Reading()
    name = source_name(source)
    reading.kept[name] += 0
    file_before, rows_before, last = "", 0, 0
    for file, number, row in rows_of(source):
        if file != file_before:
            file_before, rows_before = file, rows_before + last
        last = number
        try:
            if isinstance(row, BadRow):
                raise row
            parsed = _parsed(parse, row, rows_before + number)
        except BadRow as bad:
            reading.leave_out(name, file, number, bad)
        else:
            reading.kept[name] += 1
            yield parsed


def source_name(source: str | Path) -> str:
    """What a file, a folder or an ``hf:`` name is called in a table, wherever it lies."""
    return str(source) if str(source).startswith("hf:") else Path(source).name


def _parsed(parse: Callable[[dict[str, Any], int], Row], row: dict[str, Any], number: int) -> Row:
    try:
        return parse(row, number)
    except BadRow:
        raise
    except KeyError as error:
        raise BadRow("malformed", f"no field {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise BadRow("malformed", str(error)) from None


def read_problems(source: str | Path, task: Task, reading: Reading | None = None) -> list[Problem]:
    """The problems of a file, a folder or an ``hf:`` name, as ``task`` reads its rows; their ids are unique."""
    seen: set[str] = set()

    def parse(row: dict[str, Any], number: int) -> Problem:
        problem = task.problem(row, number)
        if problem.id in seen:
            raise BadRow("duplicate_id", f"two problems have the id {problem.id!r}")
        seen.add(problem.id)
        return problem

    problems = list(read_rows(source, parse, reading))
    if not problems:
        bad = f": each of its {len(reading.left_out)} rows is bad" if reading and reading.left_out else ""
        raise UserError(f"{source}: no problems in it{bad}")
    return problems


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[str]]:
    """A text file that takes the place of ``path`` when the block ends well, and leaves no trace when it does not.

    UserError where something stands there that is no file: a device, a pipe, a folder. Of a symbolic link, the file
    that it points to is replaced.
    """
    path = _replaceable(Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _replaceable(path: Path) -> Path:
    """The file that a file written to ``path`` takes the place of, or that it will be."""
    if path.name == "-":
        raise UserError("--output -: standard output is not written to, give the path of a file")
    target = path.resolve() if path.is_symlink() else path
    if target.exists() and not target.is_file():
        raise UserError(f"{path} is in the way: it is no regular file, give the path of one")
    return target


class Output:
    """A file that one command makes, and those it may write ``beside`` it.

    A stamp, ``.NAME.settings.json`` in the same folder, holds the command, its settings, and the files that are ours.
    It is there before they are, so that a command that was killed is known when it is run again. Only our own files
    are ever replaced or removed.
    """

    def __init__(
        self,
        path: str | Path,
        settings: dict[str, Any],
        inputs: Iterable[str | Path] = (),
        beside: Iterable[Path] = (),
        flag: str = "--output",
    ) -> None:
        """``settings``: what decides the content, ``command`` among them. ``inputs``: the files that the command
        reads. ``flag``: the one that names ``path``.

        UserError where one of the files is no regular file, is an input, or was made by anything but this command.
        """
        self.path = Path(path)
        self.files = [self.path, *beside]
        self.flag = flag
        self.settings = json.loads(json.dumps(settings))
        self.stamp = self.path.with_name(f".{self.path.name}.settings.json")
        read = [Path(one) for one in inputs if Path(one).exists()]
        self._refuse(read)

    def _refuse(self, read: list[Path]) -> None:
        made = self._made()
        for file in self.files:
            _replaceable(file)
            if not file.exists():
                continue
            if any(file.samefile(one) for one in read):
                raise UserError(f"{file} is read by this command, and would be replaced: give another {self.flag}")
            if file.name not in made["files"]:
                raise UserError(f"{file} was not made by this command: give another {self.flag}, or remove it")
            if (command := made["settings"].get("command")) != self.settings["command"]:
                raise UserError(f"{file} was made by `negdata {command}`: give another {self.flag}, or remove it")

    def _made(self) -> dict[str, Any]:
        try:
            made = json.loads(self.stamp.read_text(encoding="utf-8"))
            return {
                "files": list(made["files"]),
                "settings": dict(made["settings"]),
                "complete": made["complete"] is True,
            }
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {"files": [], "settings": {}, "complete": False}

    @property
    def complete(self) -> bool:
        """Whether the files are there that these settings make."""
        made = self._made()
        files = (self.path.with_name(name) for name in [self.path.name, *made["files"]])
        return made["complete"] and made["settings"] == self.settings and all(file.is_file() for file in files)

    def claim(self) -> None:
        """Say that the files will be ours: before the first is written. Waits for another process that writes
        them."""
        lock = self.path.with_name(f".{self.path.name}.lock")
        only_writer(lock, [glob.escape(file.name) for file in [*self.files, self.stamp]])
        self._refuse([])
        self._write_stamp([file.name for file in self.files], complete=False)

    def commit(self) -> None:
        """Say that the files are whole."""
        self._write_stamp([file.name for file in self.files if file.exists()], complete=True)

    def _write_stamp(self, files: list[str], complete: bool) -> None:
        write_json(self.stamp, {"complete": complete, "files": files, "settings": self.settings})


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold ``lock`` for the block, after whoever holds it now. The system takes it back from a process that dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


_held: dict[Path, IO[str]] = {}
#: What flock says where the file system has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


def only_writer(lock: Path, unfinished: Iterable[str] = ()) -> None:
    """Wait until no other process holds ``lock``, then hold it until this process ends.

    A command that was killed may have left a process of its own that still writes; running it again waits for that one
    and then goes on from what it wrote. The system takes the lock back from a process that dies. What that one left
    of files in the same folder whose names match ``unfinished`` is cleared away.

    On a file system without locks nothing waits and nothing is cleared away: that is said once.
    """
    if lock.resolve() in _held:
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = lock.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that writes here (it holds {lock})", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(
            f"warning: no locks on this file system ({lock}: {error.strerror}): do not run two commands with one "
            "output at once",
            file=sys.stderr,
            flush=True,
        )
        unfinished = ()
    _held[lock.resolve()] = file
    for pattern in unfinished:
        for left in lock.parent.glob(f".{pattern}.*.tmp"):
            if re.search(r"\.\d+\.tmp$", left.name):  # as `replacing` and a run's shards name them
                left.unlink(missing_ok=True)


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write ``rows`` to ``path``, whole or not at all, and return how many there were."""
    count = 0
    with replacing(path) as file:
        for row in rows:
            file.write(_line(row) + "\n")
            count += 1
    return count


class ShuffledRows:
    """Rows that are written to ``path`` in an order that a seed decides, whole or not at all, and need not fit into
    memory: they wait in a file beside it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.waiting = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115 - open until write
        self.ends = array("Q", [0])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def add(self, row: dict[str, Any]) -> None:
        line = (_line(row) + "\n").encode("utf-8", "surrogateescape")
        self.waiting.write(line)
        self.ends.append(self.ends[-1] + len(line))

    def write(self, seed: int, size: int | None = None) -> list[int]:
        """Write the first ``size`` of the rows (all where it is None) in an order that depends on ``seed`` and on how
        many there are; returns the numbers of the rows written."""
        order = list(range(len(self)))
        random.Random(seed).shuffle(order)
        self.waiting.flush()
        with replacing(self.path) as file:
            for number in order[:size]:
                begin, end = self.ends[number], self.ends[number + 1]
                file.buffer.write(os.pread(self.waiting.fileno(), end - begin, begin))  # type: ignore[attr-defined]
        self.waiting.close()
        return order[:size]


def _line(row: dict[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair, as a JSON escape may hold: only the escape can carry it
        return json.dumps(row)
    return line


def write_json(path: str | Path, content: Any) -> None:
    with replacing(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
