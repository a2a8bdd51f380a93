"""Checkpoints that exist or do not: written aside, hashed, published by a rename, verified when read (rule 5).

A checkpoint is a folder `step-000001234-a02` (step, start) holding `state.safetensors` with tensors keyed
`model/`, `optim/<state>/` and `ema/` + parameter name, `state.json`, and `SHA256SUMS` over both in the format of
sha256sum. Reading one never executes code.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from masksup.base.files import NotAFile, as_json, file_sha256, parse_json, partial_name, read_regular, sync
from masksup.base.words import kind_of
from masksup.errors import JobError, UserError
from masksup.runtime import fence

TENSORS, META, SUMS = "state.safetensors", "state.json", "SHA256SUMS"
_NAME = re.compile(r"step-(\d{9,})-a(\d{2,})")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (state\.safetensors|state\.json)")


class Damaged(UserError):
    """Of a checkpoint that was read, and is not whole: the one before it may take its place."""


@dataclass(frozen=True)
class State:
    """All that a run is at a step: tensors by prefixed name, and everything else as JSON values."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix/`, under their own names."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(f"{prefix}/")}


def snapshot(tensors: dict[str, Tensor], meta: dict[str, Any]) -> State:
    """A copy in main memory that later steps cannot change."""
    copies = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return State(copies, json.loads(as_json(meta)))


def checkpoint_name(step: int, start: int) -> str:
    return f"step-{step:09d}-a{start:02d}"


def write_checkpoint(folder: Path, name: str, state: State) -> Path:
    """Write `state` as `folder/name`: whole and durable, or not at all.

    OSError where the disk refuses, and where what `folder` lies in is gone: it is not made anew.
    """
    final, partial = folder / name, partial_name(folder / name)
    folder.mkdir(exist_ok=True)
    try:
        partial.mkdir()
        (partial / META).write_text(as_json(state.meta, indent=1), encoding="utf-8")
        save_file(state.tensors, partial / TENSORS)
        shutil.copymode(partial / META, partial / TENSORS)  # safetensors' own is 0600, whatever the umask
        for part in (TENSORS, META):
            sync(partial / part)
        hashes = {TENSORS: _sha256_of_tensors(partial / TENSORS, state.tensors), META: file_sha256(partial / META)}
        sums = [f"{digest}  {part}" for part, digest in hashes.items()]
        (partial / SUMS).write_text("\n".join(sums) + "\n", encoding="utf-8")
        sync(partial / SUMS)
        sync(partial)
        fence.check()
        partial.rename(final)
        sync(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, SafetensorError):
            raise _disk_error(error, partial / TENSORS) from None
        raise
    return final


def _disk_error(error: SafetensorError, file: Path) -> OSError:
    """That library reports a disk that refuses as text with the number of the error in it."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(file)) if number else OSError(str(error))


def read_checkpoint(folder: Path) -> State:
    """The state in a checkpoint folder, every byte verified first.

    Damaged names the file that is not whole; UserError says what may not be read, JobError what could not be.
    """
    with _reading(folder):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such checkpoint")
        _refuse_damaged(folder)
        try:
            return State(load_file(folder / TENSORS), read_meta(folder))
        except OSError:
            raise
        except Exception as error:  # verified, so the file was written wrongly: name it all the same
            raise Damaged(f"{folder}: not a checkpoint of this program: {error}") from None


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """What a file system's refusals mean for a checkpoint."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, NotAFile, UnicodeDecodeError) as error:
        raise Damaged(f"{folder}: damaged or incomplete: {error}") from None
    except PermissionError as error:
        raise UserError(
            f"{error.filename or folder}: you may not read this file; ask its owner for the permission"
        ) from None
    except OSError as error:  # says nothing of what is on the disk
        raise JobError(f"{folder}: could not be read: {error.strerror or error}") from None


def read_meta(folder: Path) -> dict[str, Any]:
    """The facts of a checkpoint. ValueError where they are none, NotAFile and OSError as of `open_regular`."""
    meta = parse_json(read_regular(folder / META))
    if not isinstance(meta, dict):
        raise Damaged(f"{folder / META}: found {kind_of(meta)}, expected an object")
    return meta


def checkpoint_sha256(folder: Path) -> str:
    """The sha256 of a checkpoint's tensors, as its list of hashes says it; nothing is verified."""
    return (folder / SUMS).read_text(encoding="ascii")[:64]


def _refuse_damaged(folder: Path) -> None:
    """Compare both files with their hashes; Damaged names the one that differs."""
    lines = read_regular(folder / SUMS).decode("ascii")
    matches = [_SUM_LINE.fullmatch(line) for line in lines.removesuffix("\n").split("\n")]
    sums = {match[2]: match[1] for match in matches if match is not None}
    if len(matches) != 2 or set(sums) != {TENSORS, META} or not lines.endswith("\n"):
        raise Damaged(f"{folder / SUMS}: damaged: expected the sha256 of {TENSORS} and {META}")
    for part, expected in sums.items():
        if file_sha256(folder / part) != expected:
            raise Damaged(f"{folder / part}: damaged: its sha256 is not the one in {SUMS}")


def list_checkpoints(folder: Path) -> list[Path]:
    """Published checkpoints, newest first (by step, then start), not yet verified.

    UserError or JobError where `folder` cannot be looked into, which is not the same as none.
    """
    try:
        names = [path.name for path in folder.iterdir()]  # glob() takes a folder that may not be read for an empty one
    except FileNotFoundError:
        if folder.is_symlink():
            raise UserError(f"{folder}: found a link to {folder.readlink()}, which is not there") from None
        return []
    except (PermissionError, NotADirectoryError) as error:
        raise UserError(f"{folder}: cannot be looked into for checkpoints: {error.strerror}") from None
    except OSError as error:
        raise JobError(f"{folder}: could not be looked into for checkpoints: {error.strerror or error}") from None
    return [folder / name for name in sorted(filter(_NAME.fullmatch, names), key=_order, reverse=True)]


def start_of(checkpoint: Path) -> int:
    """The number of the start that wrote a checkpoint, from its name."""
    return _order(checkpoint.name)[1]


def step_of(checkpoint: Path) -> int:
    """How many steps were done when a checkpoint was written, from its name."""
    return _order(checkpoint.name)[0]


def _order(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return int(match[1]), int(match[2])


def newest_valid(folder: Path) -> tuple[State | None, dict[Path, str]]:
    """The newest checkpoint that is whole (None if there is none), and for each newer one what is wrong with it.

    One that cannot be read may be whole: `read_checkpoint` says so.
    """
    problems: dict[Path, str] = {}
    for path in list_checkpoints(folder):
        try:
            return read_checkpoint(path), problems
        except Damaged as error:
            problems[path] = str(error)
    return None, problems


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints and the one that `best` means, and what interrupted saves left."""
    kept = pointed(folder, "best")
    for path in list_checkpoints(folder)[keep:]:
        if path.name != kept:
            path.rename(partial_name(path))  # so that a kill leaves no half of it under its name
    for partial in folder.glob(".partial-*"):
        shutil.rmtree(partial, ignore_errors=True)


def point(folder: Path, link: str, name: str) -> None:
    """Make the link `latest` or `best` point to a checkpoint that is there; resuming scans instead."""
    temporary = partial_name(folder / link)
    temporary.symlink_to(name)
    temporary.replace(folder / link)


def pointed(folder: Path, link: str) -> str | None:
    """The name of the checkpoint that `latest` or `best` means, whether it is there or not; None without that link."""
    place = folder / link
    return place.readlink().name if place.is_symlink() else None


def _sha256_of_tensors(file: Path, tensors: dict[str, Tensor]) -> str:
    """What the sha256 of `file` should be, by its head and the tensors in memory.

    What was written is not read back. A disk that keeps other bytes is then found out when the checkpoint is read.
    """
    with file.open("rb") as written:
        length = written.read(8)
        head = written.read(int.from_bytes(length, "little"))
    digest = hashlib.sha256(length + head)
    places = {name: entry["data_offsets"] for name, entry in json.loads(head).items() if name != "__metadata__"}
    for name in sorted(places, key=places.__getitem__):
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
