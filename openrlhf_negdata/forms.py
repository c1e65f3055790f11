"""Rows in the forms in which data sets are published:

    FILE.jsonl                  a row a line
    FILE.json                   a list of rows
    FILE.parquet                a row a row
    FILE.csv, FILE.tsv          a row a row, below one that names the fields; every cell is text
    FOLDER                      MATH as it is published: folders of subjects, a .json file a problem; what
                                `save_to_disk` of `datasets` wrote; or what its `load_dataset` can load, such as a
                                folder of parquet files
    hf:NAME[:CONFIG[:SPLIT]]    a data set of the Hugging Face hub, or of its cache where the machine is offline

A file of text may be packed by gzip (FILE.jsonl.gz) and may begin with a byte-order mark. Only a name that begins with
``hf:`` may use the network.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from openrlhf_negdata.errors import UserError

T = TypeVar("T")
#: What the help of a command says of the forms.
FILES = "a .jsonl, .json, .csv or .parquet file, but for the last also packed as .gz"
ACCEPTED = f"{FILES}; a folder of files or of `datasets`; or hf:NAME:CONFIG:SPLIT"
_HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


class BadRow(ValueError):
    """A row that cannot be used. ``reason`` is a word to count it under; the message says more."""

    def __init__(self, reason: str, says: str) -> None:
        super().__init__(says)
        self.reason = reason


#: A file, the number of a row in it (a line, where the file has lines), and the row, or why there is none.
Found = tuple[str, int, "dict[str, Any] | BadRow"]


def rows_of(source: str | Path) -> Iterator[Found]:
    """The rows of a file, a folder or an ``hf:`` name, lazily.

    Raises:
        UserError: there is no such thing, it cannot be read at all, or it has several splits and none is named.
    """
    path = Path(source)
    if str(source).startswith("hf:"):
        return _of_hub(str(source))
    if path.is_dir():
        return _of_folder(path)
    return rows_of_file(path)


def rows_of_file(path: Path, errors: str = "strict") -> Iterator[Found]:
    """The rows of a file, lazily. ``errors``, as in ``bytes.decode``, says what becomes of text that is not UTF-8.

    Raises:
        UserError: there is no such file, or it cannot be read at all.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    return _READERS.get(_suffix(path), _of_lines)(path, errors)


def file_named(folder: Path, name: str) -> Path:
    """The file of ``folder`` that is called ``name`` in one of the forms that are read here; where there is none,
    NAME.jsonl. UserError where there are several: one of them would be passed over."""
    files = [file for form in _READERS for file in (folder / f"{name}{form}", folder / f"{name}{form}.gz")]
    there = [file for file in files if file.exists()]
    if len(there) > 1:
        raise UserError(f"{folder} holds {' and '.join(file.name for file in there)}: leave one of them there")
    return there[0] if there else files[0]


def _suffix(path: Path) -> str:
    """The suffix that tells the form of a file, packed or not."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """What a file of text holds: unpacked, if gzip packed it, whatever its name; without its byte-order mark."""
    with path.open("rb") as file:
        packed = file.peek(2).startswith(b"\x1f\x8b")
        content: Any = gzip.GzipFile(fileobj=file) if packed else file
        try:
            begins = content.peek(3)
            if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UserError(f"{path}: it is in UTF-16: save it as UTF-8")
            if begins.startswith(codecs.BOM_UTF8):
                content.read(len(codecs.BOM_UTF8))
            yield content
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: gzip cannot unpack it: {error}") from None


def _json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, and their numbers."""
    with _opened(path) as lines:
        yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _content(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read()


def json_row(line: bytes, errors: str = "strict") -> dict[str, Any]:
    """The object that ``line`` is in JSON; else a BadRow. ``errors``: as in ``bytes.decode``."""
    try:
        row = json.loads(line.decode("utf-8", errors))
        if errors == "strict" and _HALF_A_PAIR.search(line):
            json.dumps(row, ensure_ascii=False).encode("utf-8")  # an escape may say what no text can hold
    except UnicodeError as error:
        raise BadRow("not_utf8", f"not UTF-8: {error}") from None
    except RecursionError:
        raise BadRow("malformed", "nested too deeply") from None
    except ValueError as error:
        raise BadRow("malformed", str(error)) from None
    return _object(row)


def _object(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise BadRow("malformed", "not a JSON object")
    return row


def _or_bad(read: Callable[..., dict[str, Any]], *what: Any) -> dict[str, Any] | BadRow:
    try:
        return read(*what)
    except BadRow as bad:
        return bad


def _of_lines(path: Path, errors: str = "strict") -> Iterator[Found]:
    for number, line in _json_lines(path):
        yield str(path), number, _or_bad(json_row, line, errors)


def _of_json(path: Path, errors: str = "strict") -> Iterator[Found]:
    content = _content(path)
    if not content.lstrip().startswith(b"["):
        yield from _of_lines(path, errors)
        return
    try:
        rows = json.loads(content.decode("utf-8", errors))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    for number, row in enumerate(rows, start=1):
        yield str(path), number, _or_bad(_object, row)


def _of_csv(path: Path, errors: str = "strict") -> Iterator[Found]:
    """A row is numbered as in the other forms: the first below the names of the fields is 1."""
    csv.field_size_limit(sys.maxsize)  # an answer may be longer than csv's limit of 128 KiB
    with _opened(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        # Strict: a quotation mark that is never closed would take all that follows for one cell.
        rows = csv.reader(text, delimiter="\t" if _suffix(path) == ".tsv" else ",", strict=True)
        try:
            names = next(rows, [])
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                raise UserError(f"{path}: two of its columns are called {twice[0]!r}")
            cells = (row for row in rows if row)
            for number, row in enumerate(cells, start=1):
                yield str(path), number, _or_bad(_csv_row, names, row, errors)
        except csv.Error as error:
            raise UserError(f"{path}:{rows.line_num}: not CSV: {error}") from None


def _csv_row(names: list[str], cells: list[str], errors: str) -> dict[str, Any]:
    if len(cells) != len(names):
        raise BadRow("malformed", f"{len(cells)} cells below the names of {len(names)} columns")
    try:
        "".join(cells).encode("utf-8", errors)
    except UnicodeError as error:
        raise BadRow("not_utf8", f"not UTF-8: {error}") from None
    return dict(zip(names, cells, strict=True))


def _of_parquet(path: Path, _: str = "strict") -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            for row in _of_batch(batch):
                number += 1
                yield str(path), number, row
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a parquet file that can be read: {error}") from None


def _of_batch(batch: Any) -> list[dict[str, Any] | BadRow]:
    try:
        return batch.to_pylist()
    except UnicodeError as error:
        if len(batch) == 1:
            return [BadRow("not_utf8", f"not UTF-8: {error}")]
        return [row for i in range(len(batch)) for row in _of_batch(batch.slice(i, 1))]


#: Files whose rows can be named one by one; all others are read as JSON Lines.
_READERS: dict[str, Callable[[Path, str], Iterator[Found]]] = {
    ".jsonl": _of_lines,
    ".json": _of_json,
    ".parquet": _of_parquet,
    ".csv": _of_csv,
    ".tsv": _of_csv,
}


def _of_folder(folder: Path) -> Iterator[Found]:
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _of_saved(folder)
    files = sorted(folder.glob("*/*.json"))
    if any(_is_problem(file) for file in files):
        return _of_tree(folder, files)
    return _of_data_files(folder)


def _is_problem(file: Path) -> bool:
    row = _or_bad(json_row, _content(file))
    return isinstance(row, dict) and "problem" in row


def _of_tree(folder: Path, files: Iterable[Path]) -> Iterator[Found]:
    for file in files:
        row = _or_bad(json_row, _content(file))
        if isinstance(row, dict):
            row = {"id": file.relative_to(folder).with_suffix("").as_posix(), **row}
        yield str(file), 1, row


def _of_saved(folder: Path) -> Iterator[Found]:
    import datasets

    data = _loaded(str(folder), lambda: datasets.load_from_disk(str(folder)))
    if isinstance(data, datasets.DatasetDict):
        data = _only_split(str(folder), data, "give the folder of one")
    yield from _of_table(str(folder), data)


def _of_data_files(folder: Path) -> Iterator[Found]:
    import datasets

    builder = _loaded(str(folder), lambda: datasets.load_dataset_builder(str(folder)))
    names = _only_split(str(folder), builder.config.data_files, "give a file or folder of one")
    files = [Path(name) for name in names]
    if elsewhere := [name for name, file in zip(names, files, strict=True) if not file.is_file()]:
        raise UserError(f"{folder} is a data set of files that are not in it: {elsewhere[0]}")
    if all(_suffix(file) in _READERS for file in files):
        for file in files:
            yield from rows_of_file(file)
    else:
        data = _loaded(str(folder), lambda: datasets.load_dataset(str(folder)))
        yield from _of_table(str(folder), next(iter(data.values())))


def _of_hub(source: str) -> Iterator[Found]:
    name, *of_it = source.removeprefix("hf:").split(":", 2)  # a split may be a slice, such as train[:100]
    if not name:
        raise UserError(f"{source}: write hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    config, split = [*of_it, "", ""][:2]
    import datasets

    data: Any = _loaded(source, lambda: datasets.load_dataset(name, config or None, split=split or None))
    if isinstance(data, datasets.DatasetDict):
        data = _only_split(source, data, "give one: hf:NAME:CONFIG:SPLIT")
    yield from _of_table(source, data)


def _of_table(name: str, data: Iterable[dict[str, Any]]) -> Iterator[Found]:
    for number, row in enumerate(data, start=1):
        yield name, number, row


def _loaded(source: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except Exception as error:  # `datasets` raises a dozen kinds for what is not there or not a data set
        says = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise UserError(f"{source} cannot be loaded as a data set: {says or repr(error)}") from None


def _only_split(source: str, splits: Mapping[Any, T], how: str) -> T:
    if len(splits) != 1:
        raise UserError(f"{source} has the splits {', '.join(map(str, splits))}: {how}")
    return next(iter(splits.values()))
