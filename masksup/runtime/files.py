"""Small files that are whole or not there; without anything but the standard library."""

import errno
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masksup.errors import UserError


def refuse_unwritable(folder: Path, create: bool = False) -> None:
    """UserError, before hours of work, if files cannot be written to `folder`; `create` makes it first."""
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to: {error.strerror}") from None


def refuse_unwritable_file(option: str, path: Path) -> None:
    """UserError, before hours of work, if the file that an option names cannot be written."""
    if path.is_dir():
        raise UserError(f"{option}: found the folder {path}, expected the name of a file")
    refuse_unwritable(path.parent)


def remedy(error: Exception | None) -> str:
    """What a person can do about a disk that refuses to write."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "make room"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "give yourself the permission to write there"
    return "see to the disk"


def partial_name(path: Path, suffix: str = "") -> Path:
    """A hidden name beside `path` to write it under: one that no other writer has, on whatever host.

    A process number would not do: two hosts that share a file system may both have it.
    """
    return path.with_name(f".partial-{path.name[:40]}-{secrets.token_hex(6)}{suffix}")  # names may have 255 bytes


@contextmanager
def written_whole(path: Path, suffix: str = "") -> Iterator[Path]:
    """The name to write a file under that becomes `path` at the end: readers and crashes see the old or the new one.

    suffix: for writers that go by the end of a name. Where writing fails nothing is left, and the OSError names `path`.
    Of several that write at once the last to end is read.
    """
    partial = partial_name(path, suffix)
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.filename is None:  # as from a full disk
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file so that readers and crashes see the old or the new one, never a part."""
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1) + "\n")
