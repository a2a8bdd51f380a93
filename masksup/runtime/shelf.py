"""Snapshots of a run in memory, which outlive the rank that took them and are gone with its keeper.

A shelf is two memory files without a name, made by a keeper (`launch.start.keeper`) before it forks its rank. They take
turns: while one is written the other holds the snapshot before it. The ranks of a node share the work: each keeps its
part of the tensors, and what all have of one step is the whole state.
"""

import json
import math
import os
import struct
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from masksup.base.files import as_json
from masksup.runtime.checkpoint import State

SHELF, TAKEN = "MASKSUP_SHELF", "MASKSUP_TAKEN"
"""Variables by which a keeper gives its rank the files to keep snapshots in, and those to go on from."""
_HEAD = struct.Struct("<8sqqqI")
"""Mark, step, length of the tensors, length of the rest, checksum of both."""
_MARK = b"masksup1"


@dataclass(frozen=True)
class Shelf:
    """Two open files."""

    files: tuple[int, int]

    @classmethod
    def make(cls) -> Self:
        """A new shelf, which processes forked from this one share."""
        return cls((os.memfd_create("masksup-snapshot-a"), os.memfd_create("masksup-snapshot-b")))

    def paths(self, pid: int) -> list[str]:
        """Where other processes of this machine and user find the files of the process `pid`."""
        return [f"/proc/{pid}/fd/{file}" for file in self.files]

    def put(self, step: int, state: State) -> None:
        """Keep this in the place of the older of the two."""
        held = [_step(file) for file in self.files]
        file = self.files[held.index(min(held))]
        body, rest = save(state.tensors), as_json(state.meta).encode()
        os.pwrite(file, bytes(_HEAD.size), 0)  # until it is whole there is none
        os.ftruncate(file, _HEAD.size + len(body) + len(rest))
        _write(file, body, _HEAD.size)
        _write(file, rest, _HEAD.size + len(body))
        checksum = zlib.crc32(rest, zlib.crc32(body))
        os.pwrite(file, _HEAD.pack(_MARK, step, len(body), len(rest), checksum), 0)

    def steps(self) -> list[int]:
        """Of the snapshots that are there."""
        return [step for step in map(_step, self.files) if step >= 0]


class Snapshots:
    """When this rank takes the next, and where to. Without a keeper, or with `every` 0 s, it takes none."""

    def __init__(self, every: float) -> None:
        files = os.environ.get(SHELF)
        self._shelf = Shelf(tuple(map(int, files.split(",")))) if files and every > 0 else None  # type: ignore[arg-type]
        self._every, self._last = every, -math.inf
        self._thread: threading.Thread | None = None
        self.count, self.longest = 0, 0.0
        """How many were taken, and the most seconds that the training waited for one."""

    @property
    def taken(self) -> bool:
        """Whether there are any."""
        return self._shelf is not None

    def due(self, first: bool) -> bool:
        """Whether it is time for the next; by the clock of rank 0 (`first`), since taking one is collective."""
        return first and self._shelf is not None and time.monotonic() - self._last >= self._every

    @property
    def busy(self) -> bool:
        """Whether the one before is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def put(self, state: State, step: int) -> None:
        """Write a part of a state, beside the training."""
        assert self._shelf is not None
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._shelf.put, args=(step, state), name="snapshot", daemon=True)
        self._thread.start()

    def note(self, seconds: float) -> None:
        """The training has waited so long for one."""
        self.count, self.longest = self.count + 1, max(self.longest, seconds)

    def held(self) -> int:
        """Bytes that are kept already, by this rank or the one before it."""
        return 0 if self._shelf is None else sum(os.fstat(file).st_size for file in self._shelf.files)

    def give_up(self) -> None:
        """Take none, and give back what is held."""
        if self._shelf is not None:
            for file in self._shelf.files:
                os.ftruncate(file, 0)
        self._shelf = None


def given_state() -> State | None:
    """What the keeper of this process gave it to go on from; None without, and where it is not whole."""
    text = os.environ.get(TAKEN)
    if not text:
        return None
    given = json.loads(text)
    return taken(given["shelves"], given["step"])


def part_of(tensors: Mapping[str, Tensor], number: int, parts: int) -> dict[str, Tensor]:
    """The tensors that are kept as part `number` of so many: neighbours by name, of about equal size together."""
    whole = sum(value.nbytes for value in tensors.values()) or 1
    chosen, before = {}, 0
    for name in sorted(tensors):
        if min(before * parts // whole, parts - 1) == number:
            chosen[name] = tensors[name]
        before += tensors[name].nbytes
    return chosen


def taken(shelves: Sequence[Sequence[str]], step: int) -> State | None:
    """The state of a step from the shelves of all ranks of a node; None where a part is missing or damaged."""
    tensors: dict[str, Tensor] = {}
    meta = None
    for paths in shelves:
        found = next((part for path in paths if (part := _read(Path(path), step)) is not None), None)
        if found is None:
            return None
        tensors |= found.tensors
        meta = found.meta
    return None if meta is None or len(tensors) != meta["kept_tensors"] else State(tensors, meta)


def _step(file: int) -> int:
    """Of the snapshot in a file; -1 where there is none."""
    head = os.pread(file, _HEAD.size, 0)
    if len(head) < _HEAD.size:
        return -1
    mark, step, *_ = _HEAD.unpack(head)
    return int(step) if mark == _MARK else -1


def _write(file: int, content: bytes, at: int) -> None:
    view = memoryview(content)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done


def _read(path: Path, step: int) -> State | None:
    try:
        content = memoryview(path.read_bytes())
        mark, found, body, rest, checksum = _HEAD.unpack_from(content)
    except (OSError, struct.error):
        return None
    if len(content) != _HEAD.size + body + rest:
        return None
    parts = content[_HEAD.size : _HEAD.size + body], content[_HEAD.size + body : _HEAD.size + body + rest]
    if (mark, found) != (_MARK, step) or zlib.crc32(parts[1], zlib.crc32(parts[0])) != checksum:
        return None
    try:
        return State(load(bytes(parts[0])), json.loads(bytes(parts[1])))
    except (SafetensorError, ValueError):
        return None
