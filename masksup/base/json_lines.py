"""Files of JSON objects, one a line, that grow while crashes, full disks and bad sectors happen to them."""

import os
from pathlib import Path
from typing import Any

from masksup.base.files import as_json, parse_json, read_regular

Row = dict[str, Any]


def split_lines(content: bytes) -> list[bytes]:
    """The lines of a file; the last may have been cut off. Only a newline ends a line, whatever damage looks like."""
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def parse_line(line: bytes) -> Row | None:
    """The object in a line; None for a damaged one."""
    try:
        row = parse_json(line.decode("utf-8"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def read_lines(path: Path) -> list[Row]:
    """All rows of a file that are whole, those behind a damaged one too; none where there is no file."""
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return []
    return [row for line in split_lines(content) if (row := parse_line(line)) is not None]


class Appender:
    """Adds rows to a file. What the disk refuses is kept, and written before whatever comes next."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._unwritten = b""

    def append(self, row: Row) -> None:
        """OSError where the disk refuses; the row is not lost by that."""
        self._unwritten += as_json(row).encode("utf-8") + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what could not be written before. OSError where that is still so."""
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten) :]

    @property
    def waiting(self) -> int:
        """Rows that are not in the file yet."""
        return self._unwritten.count(b"\n")

    def close(self) -> None:
        """OSError where rows are lost."""
        try:
            self.flush()
        finally:
            os.close(self._descriptor)
