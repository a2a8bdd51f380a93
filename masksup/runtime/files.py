"""Small files that are whole or not there; without anything but the standard library."""

import errno
import json
import os
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError name `path` where it names no file, as that of a full disk, or of a library that hides it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # numpy and Pillow say that less was written than they gave
            raise OSError(errno.ENOSPC, f"could not be written whole; is the disk full? ({error})", str(path)) from None
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def written_whole(path: Path, suffix: str = "") -> Iterator[Path]:
    """The name to write a file under that becomes `path` at the end: readers and crashes see the old or the new one.

    suffix: for writers that go by the end of a name. Where writing fails nothing is left, and the OSError names `path`.
    """
    partial = path.with_name(f".{path.name}.partial{suffix}")
    try:
        with naming(path):
            yield partial
            partial.replace(path)
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
