"""Checkpoints that exist or do not: written aside, hashed, published by a rename, verified when read (rule 5).

A checkpoint is a folder `step-000001234-a02` (step, attempt) holding `state.safetensors` with tensors keyed
`model/`, `optim/<state>/` and `ema/` + parameter name, `state.json`, and `SHA256SUMS` over both in the format of
sha256sum. Reading one never executes code.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from masksup.errors import UserError
from masksup.runtime import fence
from masksup.words import kind_of

TENSORS, META, SUMS = "state.safetensors", "state.json", "SHA256SUMS"
_NAME = re.compile(r"step-(\d{9,})-a(\d{2,})")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (state\.safetensors|state\.json)")


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
    return State(copies, json.loads(json.dumps(meta)))


def checkpoint_name(step: int, attempt: int) -> str:
    return f"step-{step:09d}-a{attempt:02d}"


def write_checkpoint(folder: Path, name: str, state: State) -> Path:
    """Write `state` as `folder/name`: whole and durable, or not at all. OSError where the disk refuses."""
    final, partial = folder / name, folder / f".partial-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        save_file(state.tensors, partial / TENSORS)
        (partial / META).write_text(json.dumps(state.meta, indent=1), encoding="utf-8")
        sums = [f"{_sync_and_hash(partial / part)}  {part}" for part in (TENSORS, META)]
        (partial / SUMS).write_text("\n".join(sums) + "\n", encoding="utf-8")
        _sync(partial / SUMS)
        _sync(partial)
        fence.check()
        partial.rename(final)
        _sync(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, SafetensorError):  # how that library reports a disk that refuses
            raise OSError(str(error)) from None
        raise
    return final


def read_checkpoint(folder: Path) -> State:
    """The state in a checkpoint folder, every byte verified first. UserError naming the file that is not whole."""
    verify(folder)
    try:
        tensors = load_file(folder / TENSORS)
        return State(tensors, read_meta(folder))
    except Exception as error:  # verified, so the file was written wrongly: name it all the same
        raise UserError(f"{folder}: not a checkpoint of this program: {error}") from None


def read_meta(folder: Path) -> dict[str, Any]:
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    if not isinstance(meta, dict):
        raise UserError(f"{folder / META}: found {kind_of(meta)}, expected an object")
    return meta


def verify(folder: Path) -> None:
    """Compare both files with their hashes; UserError naming the one that differs."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint")
    try:
        lines = (folder / SUMS).read_bytes().decode("ascii")
        matches = [_SUM_LINE.fullmatch(line) for line in lines.removesuffix("\n").split("\n")]
        sums = {match[2]: match[1] for match in matches if match is not None}
        if len(matches) != 2 or set(sums) != {TENSORS, META} or not lines.endswith("\n"):
            raise UserError(f"{folder / SUMS}: damaged: expected the sha256 of {TENSORS} and {META}")
        for part, expected in sums.items():
            if _hash(folder / part) != expected:
                raise UserError(f"{folder / part}: damaged: its sha256 is not the one in {SUMS}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}: damaged or incomplete: {error}") from None


def list_checkpoints(folder: Path) -> list[Path]:
    """Published checkpoints, newest first (by step, then attempt), not yet verified."""
    found = [path for path in folder.glob("step-*-a*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: _order(path.name), reverse=True)


def _order(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return int(match[1]), int(match[2])


def newest_valid(folder: Path) -> tuple[State | None, dict[Path, str]]:
    """The newest checkpoint that is whole (None if there is none), and for each newer one what is wrong with it."""
    problems: dict[Path, str] = {}
    for path in list_checkpoints(folder):
        try:
            return read_checkpoint(path), problems
        except UserError as error:
            problems[path] = str(error)
    return None, problems


def prune(folder: Path, keep: int, best: str | None) -> None:
    """Delete all but the `keep` newest checkpoints and the best one, and what an interrupted save left behind."""
    for path in list_checkpoints(folder)[keep:]:
        if path.name != best:
            shutil.rmtree(path, ignore_errors=True)
    for partial in folder.glob(".partial-*"):
        shutil.rmtree(partial, ignore_errors=True)


def point(folder: Path, link: str, name: str) -> None:
    """Make the link `latest` or `best` point to a checkpoint; for people, resuming scans instead."""
    temporary = folder / f".partial-{link}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    temporary.replace(folder / link)


class Saver:
    """Writes checkpoints off the training thread, one at a time. A disk that refuses does not stop the training."""

    def __init__(self, folder: Path, attempt: int, keep: int) -> None:
        self.folder, self.attempt, self.keep = folder, attempt, keep
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None

    def name(self, step: int) -> str:
        """What a checkpoint of this attempt at `step` is called."""
        return checkpoint_name(step, self.attempt)

    def save(self, state: State, name: str, best: str | None) -> None:
        """Begin to write `state` as `name`; `best` names the checkpoint to keep (it may be this one)."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(name, state, best), name="checkpoint")
        self._thread.start()

    def _write(self, name: str, state: State, best: str | None) -> None:
        try:
            if not (self.folder / name).is_dir():
                write_checkpoint(self.folder, name, state)
            fence.check()
            point(self.folder, "latest", name)
            if best is not None and (self.folder / best).is_dir():
                point(self.folder, "best", best)
            prune(self.folder, self.keep, best)
        except Exception as error:  # whatever it is, the training thread reports it and goes on
            self._problem = error

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def take_problem(self) -> Exception | None:
        """The error of the last save, once."""
        problem, self._problem = self._problem, None
        return problem


def _sync_and_hash(path: Path) -> str:
    _sync(path)
    return _hash(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
