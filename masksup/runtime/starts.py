"""The starts of a run, numbered from 1 in `starts.jsonl`: by these numbers all else speaks of them."""

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masksup.base.files import as_json, naming, read_regular
from masksup.base.json_lines import read_lines, split_lines

STARTS = "starts.jsonl"


def new_start(path: Path, facts: Mapping[str, Any] | None = None) -> int:
    """Number this start and note it with `facts`; the file is also the record of how often the run was started.

    A launcher numbers the starts of its runs, those too that come to nothing before a rank gets here, and its number
    is taken. No two starts have one number, even where the file lost lines: checkpoints are named by it.
    """
    from masksup.runtime.checkpoint import list_checkpoints, start_of  # needs torch; the launcher does without it

    starts = path / STARTS
    before = read_regular(starts) if starts.exists() else b""
    saved = max(map(start_of, list_checkpoints(path / "checkpoints")), default=0)
    start = max(len(split_lines(before)), last_start(path), saved) + 1
    given = os.environ.get("MASKSUP_START", "")
    start = max(start, int(given)) if given.isdecimal() else start
    row = {"start": start, "time": time.time(), "host": platform.node(), "pid": os.getpid(), **(facts or {})}
    with naming(starts), starts.open("ab") as file:
        cut_off = before and not before.endswith(b"\n")
        file.write(b"\n" * bool(cut_off) + as_json(row).encode() + b"\n")
    return start


def last_start(path: Path) -> int:
    """The highest number that a start of the run in `path` has noted; 0 before the first."""
    numbers = [row.get("start", row.get("attempt")) for row in read_lines(path / STARTS)]  # older: attempt
    return max((number for number in numbers if isinstance(number, int)), default=0)
