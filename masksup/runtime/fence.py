"""A process that was replaced must not write any more: the holder of a run folder is named in a file.

A launcher that starts a run anew, because the old process is thought to be gone, writes a new token into the file.
The old process may still run, on a machine that was only cut off, and finds out here. Imports nothing heavy.
"""

import os
import sys
from pathlib import Path

SUPERSEDED = 76
"""Exit status of a process whose run folder belongs to another one now."""

_held: tuple[Path, str] | None = None


def hold(path: Path, token: str) -> None:
    """From here on this process writes only as long as the file says `token`."""
    global _held
    _held = (path, token)


def is_set() -> bool:
    return _held is not None


def check() -> None:
    """Leave at once, without any clean-up that could write, if another process holds the run folder now."""
    if _held is None:
        return
    path, token = _held
    try:
        holder = path.read_text(encoding="utf-8").strip()
    except OSError:
        return  # a file system that does not answer is not another holder
    if holder and holder != token:
        print(f"masksup: {path}: {holder} has taken over this run from {token}; leaving", file=sys.stderr, flush=True)
        os._exit(SUPERSEDED)
