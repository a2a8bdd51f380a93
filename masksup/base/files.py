"""Files that are written whole or not at all, and read only where they are files; with the standard library alone."""

import errno
import hashlib
import io
import json
import math
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from masksup.errors import UserError

Bytes = bytes | memoryview  # of a file, or a part of one that was not copied
_SEAL = "sha256"  # key of the hash of all else in a JSON file


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
    Of several that write at once the last to end is read.
    """
    partial = partial_name(path, suffix)
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
        to_disk(file)


def to_disk(file: IO[Any]) -> None:
    """Have what was written to an open file outlive a crash of the machine. OSError where there is no room for it."""
    file.flush()
    os.fsync(file.fileno())


def sync(path: Path) -> None:
    """The same for a closed file, and for the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finite(value: Any) -> Any:
    """None in place of what JSON has no number for, in objects and lists as well."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(value: Any, **layout: Any) -> str:
    """JSON as every reader takes it; `layout` as of `json.dumps`. ValueError for NaN or infinity, which it has not."""
    return json.dumps(value, allow_nan=False, **layout)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, as_json(value, indent=1) + "\n")


def write_sealed(path: Path, tree: dict[str, Any]) -> None:
    """An object as JSON together with its own hash, so that damage shows when `read_sealed` reads it."""
    write_json(path, {**tree, _SEAL: json_sha256(tree)})


def json_sha256(value: Any) -> str:
    """sha256 of a value as JSON with sorted keys."""
    return hashlib.sha256(as_json(value, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of the bytes of a file. NotAFile and OSError as of `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sealed(path: Path, what: str, again: str) -> dict[str, Any]:
    """What `write_sealed` wrote. UserError as of `read_json` and `unsealed`."""
    return unsealed(read_json(path, what), str(path), again)


def unsealed(tree: dict[str, Any], where: str, again: str) -> dict[str, Any]:
    """An object without its hash, which it did not have in older versions.

    UserError where the content is not what the hash is of: `again` says how to make it anew.
    """
    if _SEAL not in tree:
        return tree
    content = {key: value for key, value in tree.items() if key != _SEAL}
    if tree[_SEAL] != json_sha256(content):
        raise UserError(f"{where}: was changed after it was written (its sha256 differs); {again}")
    return content


class NotAFile(UserError):
    """A folder, FIFO, socket or device stands where a file is expected."""


def refuse_special(path: Path) -> None:
    """NotAFile for a folder, and for a FIFO, socket or device, which may never answer or never end.

    OSError where nothing is there.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        raise NotAFile(f"{path}: found {kinds.get(stat.S_IFMT(mode), 'a device')}, expected a regular file")


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file to read its bytes. NotAFile as of `refuse_special`, OSError as of `open`."""
    refuse_special(path)
    return path.open("rb")


def read_regular(path: Path) -> bytes:
    """All bytes of a file. NotAFile and OSError as of `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a file, every line end as a newline. NotAFile and OSError as of `open_regular`."""
    with io.TextIOWrapper(open_regular(path), encoding, errors) as file:
        return file.read()


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file. UserError, which says that `what` was expected, where there is none to be read."""
    try:
        value = parse_json(read_regular(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected {what}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), expected {what}") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read (malformed JSON: {error}), expected {what}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: found {type(value).__name__}, expected {what}")
    return value


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. ValueError for all that is none, NaN, infinities and bottomless nesting included."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text} is beyond all numbers")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
