"""Rows in the forms in which data sets are published:

    FILE.jsonl                  a row a line
    FILE.json                   a list of rows
    FILE.parquet                a row a row
    FOLDER                      MATH as it is published: folders of subjects, a .json file a problem; what
                                `save_to_disk` of `datasets` wrote; or what its `load_dataset` can load, such as a
                                folder of parquet files
    hf:NAME[:CONFIG[:SPLIT]]    a data set of the Hugging Face hub, or of its cache where the machine is offline

Only a name that begins with ``hf:`` may use the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from openrlhf_negdata.errors import UserError

T = TypeVar("T")
#: What the help of a command says of the forms.
ACCEPTED = "a .jsonl, .json or .parquet file, a folder of files or of `datasets`, or hf:NAME:CONFIG:SPLIT"
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
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    return _READERS.get(path.suffix, _of_lines)(path)


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, and their numbers."""
    with path.open("rb") as lines:
        yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


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


def _of_lines(path: Path) -> Iterator[Found]:
    for number, line in json_lines(path):
        yield str(path), number, _or_bad(json_row, line)


def _of_json(path: Path) -> Iterator[Found]:
    content = path.read_bytes()
    if not content.lstrip().startswith(b"["):
        yield from _of_lines(path)
        return
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    for number, row in enumerate(rows, start=1):
        yield str(path), number, _or_bad(_object, row)


def _of_parquet(path: Path) -> Iterator[Found]:
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
_READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    ".jsonl": _of_lines,
    ".json": _of_json,
    ".parquet": _of_parquet,
}


def _of_folder(folder: Path) -> Iterator[Found]:
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _of_saved(folder)
    files = sorted(folder.glob("*/*.json"))
    if any(_is_problem(file) for file in files):
        return _of_tree(folder, files)
    return _of_data_files(folder)


def _is_problem(file: Path) -> bool:
    row = _or_bad(json_row, file.read_bytes())
    return isinstance(row, dict) and "problem" in row


def _of_tree(folder: Path, files: Iterable[Path]) -> Iterator[Found]:
    for file in files:
        row = _or_bad(json_row, file.read_bytes())
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
    if all(file.suffix in _READERS for file in files):
        for file in files:
            yield from _READERS[file.suffix](file)
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
