"""The file of results: a line of JSON a row, appended, so that a check that is cut off goes on from it.

The first row says what was measured and where; `{"step": s, "ended": how}` ends a step; any other row is a result.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from masksup.base.files import as_json, to_disk

Row = dict[str, Any]
PASSED, FAILED, TIMED_OUT, ABSENT, NO_TIME = "passed", "failed", "timed out", "absent", "no time left"
FINAL = (PASSED, FAILED, ABSENT)
"""Ends after which a step is not run again."""


def read(file: Path) -> list[Row]:
    """The rows so far, without a last line that was cut off."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def append(file: Path, row: Row) -> None:
    """Add a row, durably and on a line of its own, whatever a killed process left before it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as out:
        if out.tell():
            out.seek(-1, os.SEEK_END)
            if out.read(1) != b"\n":
                out.write(b"\n")
        out.write(as_json(row).encode() + b"\n")
        to_disk(out)


def ended(rows: Iterable[Row], step: str) -> str | None:
    """How a step ended last; None: it did not."""
    ends = [row["ended"] for row in rows if row["step"] == step and "ended" in row]
    return ends[-1] if ends else None


def results(rows: Iterable[Row], step: str) -> dict[str, Row]:
    """What a step found, by what it is of; of several calls the last."""
    return {row["what"]: row for row in rows if row["step"] == step and "what" in row}
