"""A run on disk: what one command made, in one folder, written shard by shard.

    manifest.json            the command, the settings that decide its content, counts once it is complete
    problems.jsonl           the problems
    task.py                  the task, where it is one's own: a copy of its file, which no command runs unasked
    tokenizer/               the policy's tokenizer, so that the folder can be read without the model
    traces-00000.parquet     tables in shards; a shard appears whole or not at all, and is never rewritten

A command that finds every shard there does nothing; one that finds some goes on after them; one whose settings
differ from the manifest's refuses, so that rows made by different settings never mix.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import only_writer, read_file, write_json, write_jsonl
from openrlhf_negdata.models import load_tokenizer, tokenizer_files
from openrlhf_negdata.records import Problem, Rollout, StepValues, Trace
from openrlhf_negdata.tasks import Task, is_built_in, load

_IDS = pa.list_(pa.int32())
SCHEMAS = {
    "traces": pa.schema(
        {
            "problem": pa.string(),
            "sample": pa.int32(),
            "prompt_ids": _IDS,
            "token_ids": _IDS,
            "text": pa.string(),
            "finish_reason": pa.string(),
            "outcome": pa.string(),
            "answer": pa.string(),
        }
    ),
    "values": pa.schema(
        {
            "problem": pa.string(),
            "sample": pa.int32(),
            "step_ends": _IDS,
            "correct": _IDS,
            "count": _IDS,
            "pit": pa.int32(),
        }
    ),
    "rollouts": pa.schema(
        {
            "problem": pa.string(),
            "prefix_ids": _IDS,
            "token_ids": _IDS,
            "outcome": pa.string(),
            "seed": pa.int64(),
        }
    ),
}
#: The tables a command writes; a shard of the last says that those of the others are there.
TABLES = {
    "sample": ("traces",),
    "grade": ("traces",),
    "value": ("rollouts", "traces", "values"),
    "import": ("rollouts", "traces", "values"),
}
#: The copy of the file of a task of one's own: to be read, and never run unless the user names it.
TASK_FILE = "task.py"
_ROWS: dict[str, Any] = {"traces": Trace, "values": StepValues, "rollouts": Rollout}


class Run:
    """A run folder, open for reading, or for writing by the one command that makes it."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def create(
        cls,
        path: str | Path,
        command: str,
        settings: dict[str, Any],
        problems: list[Problem],
        tokenizer_from: str | Path | None = None,
        task: Task | None = None,
    ) -> Run:
        """Start the run at ``path``, or go on with it if it was started with equal ``settings``.

        ``tokenizer_from``: the model folder, or the run folder, whose tokenizer the run is to carry. ``task``: the
        task of ``settings``; where it is one's own, the run carries a copy of its file.
        """
        path = Path(path)
        wanted = json.loads(json.dumps({"command": command, "settings": settings}))
        run = cls.check(path, command, settings, problems)
        if run and run.complete and not run.owed():
            return run  # nothing is left to write, so it may be where nothing can be
        rows = [asdict(problem) for problem in problems]
        tokenizer = Path(tokenizer_from or "")
        if (tokenizer / "tokenizer").is_dir():
            tokenizer /= "tokenizer"
        files = tokenizer_files(tokenizer) if tokenizer_from and run is None else []
        only_writer(path / ".lock", ["*"])
        run = cls._started(path, wanted)  # by another process, since
        if run is None:
            write_jsonl(path / "problems.jsonl", rows)
            for file in files:
                copy = path / "tokenizer" / file.relative_to(tokenizer)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
            if task is not None and task.source:
                (path / TASK_FILE).write_bytes(task.code)
            run = cls(path, {**wanted, "shards": 0, "complete": False})
        else:
            run.manifest["complete"] = run.complete and not run.owed()
        write_json(path / "manifest.json", run.manifest)
        return run

    @classmethod
    def check(cls, path: str | Path, command: str, settings: dict[str, Any], problems: list[Problem]) -> Run | None:
        """The run that :meth:`create` would go on with, None where it would start one; nothing is written.

        UserError where it would refuse to.
        """
        run = cls._started(Path(path), json.loads(json.dumps({"command": command, "settings": settings})))
        if run is None:
            _refuse_others_folder(Path(path), [asdict(problem) for problem in problems])
        return run

    @classmethod
    def _started(cls, path: Path, wanted: dict[str, Any]) -> Run | None:
        """The run at ``path``, if there is one. UserError where its settings are not those ``wanted``."""
        if not (path / "manifest.json").is_file():
            return None
        run = cls(path, _read_manifest(path))
        made = {"command": run.manifest["command"], **run.manifest["settings"]}
        refuse_other_settings(path, made, {"command": wanted["command"], **wanted["settings"]})
        return run

    @classmethod
    def open(cls, path: str | Path, complete: bool = True) -> Run:
        """Open a run for reading; unless ``complete`` is False, only one that is complete, every shard of it there."""
        path = Path(path)
        if not (path / "manifest.json").is_file():
            raise UserError(f"{path} is not a run folder: it has no manifest.json")
        run = cls(path, _read_manifest(path))
        owed = len(run.owed())
        if not complete:
            run.manifest["complete"] = run.complete and not owed
        elif owed or not run.complete:
            lacks = f" ({owed} of {run.shards} shards are owed)" if owed else ""
            raise UserError(
                f"{path} is not complete{lacks}: run `negdata {run.manifest['command']}` on it again first"
            )
        return run

    @property
    def complete(self) -> bool:
        return bool(self.manifest["complete"])

    @property
    def shards(self) -> int:
        """How many shards of each table the run has once it is complete."""
        return self.manifest["shards"]

    def task(self, given: str | None = None) -> Task:
        """The task that the run was made with, with the grading that its answers were graded by. ``given`` is what
        the user named, if anything.

        Code that a folder carries is never run unasked, for the folder may come from anyone: of a run with a task of
        one's own, the user names the file, and it must be the one that the run was made with.
        """
        made = str(self.manifest["settings"]["task"])
        if given is None and not is_built_in(made):
            raise UserError(
                f"{self.path} was made with the task file of {made}: give --task FILE.py "
                f"({self.path / TASK_FILE} is a copy, read it before you name it)"
            )
        task = load(given or made, made, owner=str(self.path))
        return task.graded_by(self.grading)

    @property
    def graded(self) -> bool:
        """Whether its answers have outcomes, and are all that a grader was given."""
        return self.manifest["command"] in ("grade", "import")

    @property
    def valued(self) -> bool:
        """Whether its answers have step values: those of `negdata value`, or of answers that were imported with
        theirs."""
        return "budget" in self.manifest["settings"]

    @property
    def grading(self) -> str:
        """How the task read the answers, one of its ``gradings``."""
        settings = self.manifest["settings"]
        while "grading" not in settings and "input" in settings:
            settings = settings["input"]
        return settings.get("grading", Task.grading)

    @property
    def sampled(self) -> dict[str, Any]:
        """The settings that the answers were sampled with."""
        settings = self.manifest["settings"]
        while "input" in settings:
            settings = settings["input"]
        return settings

    def tokenizer(self, trust_remote_code: bool = False) -> Any:
        """The policy's tokenizer. Where it is made of Python code, ``trust_remote_code`` lets that run."""
        return load_tokenizer(str(self.path / "tokenizer"), trust_remote_code)

    def problems(self) -> list[Problem]:
        return [Problem(**row) for row in _rows(self.path / "problems.jsonl")]

    def shard(self, table: str, number: int) -> Path:
        return self.path / f"{table}-{number:05d}.parquet"

    def expect(self, shards: int) -> None:
        """Say how many shards the run will have, before the first is written."""
        if self.shards not in (0, shards):
            raise UserError(
                f"{self.path} was started with {self.shards} shards, and its input now gives {shards}: "
                "give another --output, or remove that folder"
            )
        self.manifest["shards"] = shards
        write_json(self.path / "manifest.json", self.manifest)

    def owed(self) -> list[int]:
        """The shards that are not there. One that cannot be read, as a machine that lost power may leave it, is owed
        again."""
        return [
            number
            for number in range(self.shards)
            if not all(self._has(table, number) for table in reversed(TABLES[self.manifest["command"]]))
        ]

    def _has(self, table: str, number: int) -> bool:
        try:
            pq.read_metadata(self.shard(table, number))
        except FileNotFoundError:
            return False
        except pa.ArrowInvalid:
            print(f"{self.shard(table, number)} cannot be read: it is owed again", file=sys.stderr)
            return False
        return True

    def write(
        self,
        table: str,
        number: int,
        rows: Iterable[Trace | StepValues | Rollout],
        speed: dict[str, float] | None = None,
    ) -> None:
        """Write shard ``number`` of ``table`` in one atomic step. ``speed`` says what it took to make it."""
        if number >= self.shards:
            raise ValueError(f"shard {number} of {self.shards}: nobody would read it")
        schema = SCHEMAS[table].with_metadata({"speed": json.dumps(speed)} if speed else None)
        columns = pa.Table.from_pylist([vars(row) for row in rows], schema=schema)
        temporary = self.path / f".{table}-{number:05d}.{os.getpid()}.tmp"
        try:
            pq.write_table(columns, temporary, compression="zstd")
            os.replace(temporary, self.shard(table, number))
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, table: str, number: int | None = None) -> Iterator[Any]:
        """Rows of ``table`` (of one shard of it), as Trace, StepValues or Rollout, in the order they were written."""
        for shard in self._shards(table) if number is None else [self.shard(table, number)]:
            for batch in self._file(shard).iter_batches():
                for row in batch.to_pylist():
                    yield _ROWS[table](**row)

    def _shards(self, table: str) -> list[Path]:
        """The shards of ``table`` that the manifest speaks of: none of a table that the command does not make, and of
        a run that is not complete those that are there."""
        if table not in TABLES[self.manifest["command"]]:
            return []
        shards = [self.shard(table, number) for number in range(self.shards)]
        return [shard for shard in shards if self.complete or shard.exists()]

    def _file(self, shard: Path) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(shard)
        except (pa.ArrowInvalid, FileNotFoundError) as error:
            command = self.manifest["command"]
            raise UserError(
                f"{shard} cannot be read ({error}): run `negdata {command}` again, it makes that shard anew"
            ) from None

    def columns(self, table: str, *names: str) -> Iterator[pa.RecordBatch]:
        """Some columns of ``table`` as Arrow batches: for what is counted over rows too many to be Python objects."""
        for shard in self._shards(table):
            yield from self._file(shard).iter_batches(columns=list(names))

    def count(self, table: str) -> int:
        """How many rows ``table`` has."""
        return sum(self._file(shard).metadata.num_rows for shard in self._shards(table))

    def outcomes(self, table: str) -> Counter[str]:
        """How many rows of ``table`` have which outcome."""
        counts = Counter[str]()
        for batch in self.columns(table, "outcome"):
            for entry in pc.value_counts(batch.column("outcome")).to_pylist():
                counts[entry["values"]] += entry["counts"]
        return counts

    def speed(self, table: str) -> Counter[str]:
        """The sum of what was written as ``speed`` with the shards of ``table``."""
        total = Counter[str]()
        for shard in self._shards(table):
            total.update(json.loads((pq.read_schema(shard).metadata or {}).get(b"speed", b"{}")))
        return total

    def finish(self, counts: dict[str, Any]) -> None:
        """Say that every shard is there; ``counts`` accounts for what went in and came out."""
        if owed := self.owed():
            raise UserError(f"{self.path}: shards {owed} went away meanwhile: run the same command again")
        self.manifest = {**self.manifest, "complete": True, "counts": counts}
        write_json(self.path / "manifest.json", self.manifest)


def _refuse_others_folder(path: Path, rows: list[dict[str, Any]]) -> None:
    """UserError where a run with the problems ``rows`` would be written into something of someone else's."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is in the way: it is not a folder")
    if path.exists() and any(entry.suffix == ".parquet" for entry in path.iterdir()):
        raise UserError(f"{path} holds tables but no manifest.json: give another --output, or remove that folder")
    if (path / "problems.jsonl").is_file() and list(_rows(path / "problems.jsonl")) != rows:
        raise UserError(f"{path} holds a problems.jsonl of other problems: give another --output")


def refuse_other_settings(path: Path, made: dict[str, Any], wanted: dict[str, Any]) -> None:
    """UserError where the folder ``path`` was made with other settings than those ``wanted``."""
    for key in sorted({*made, *wanted}):
        if made.get(key) != wanted.get(key):
            raise UserError(
                f"{path} was made with {key} = {made.get(key)!r}, not {wanted.get(key)!r}: "
                "give another --output, or remove that folder"
            )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return read_file(path, lambda row, _: row)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        manifest["settings"]["task"]
        known = {"complete": bool(manifest["complete"]), "shards": int(manifest["shards"])}
        if manifest["command"] not in TABLES:
            raise ValueError(f"no command {manifest['command']!r} makes a run")
        return {**manifest, **known}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'manifest.json'}: not a manifest: {error!r}") from None
