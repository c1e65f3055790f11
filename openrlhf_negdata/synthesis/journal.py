"""The attempts on disk: a line each, written when it is finished, so that a kill costs only those under way."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from openrlhf_negdata.errors import UserError


class Journal:
    """``journal.jsonl``: how each attempt ended, with every reply. An attempt that was made again has several lines,
    and the last counts. A line without an end, whose writer was killed, is not read, and is cut off by the next
    :meth:`append`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: The last line of each attempt, without its replies.
        self.rows: dict[int, dict[str, Any]] = {}
        #: Over all lines: ``requests`` answered, ``prompt_tokens``, ``completion_tokens``, replies left ``uncounted``.
        self.spent: Counter[str] = Counter()
        self._end = 0
        if not path.is_file():
            return
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._take(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(f"{path}:{number}: malformed row: {error!r}") from None
                self._end += len(line)

    def append(self, row: dict[str, Any]) -> None:
        """Write ``row`` and have it on disk."""
        with self.path.open("ab") as file:
            file.truncate(self._end)
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self._end = file.tell()
        self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        for reply in row["replies"]:
            counted = {key: reply[key] or 0 for key in ("prompt_tokens", "completion_tokens")}
            self.spent.update(counted, requests=1, uncounted=int(not any(counted.values())))
        self.rows[int(row["attempt"])] = {key: value for key, value in row.items() if key != "replies"}
