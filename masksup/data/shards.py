"""The bytes of an index's images: one file an image, or tar shards that are read by offset and never extracted.

Small files are slow on parallel file systems. In shards, a read is one `pread` at a place that the index knows. Before
every image stands its tar header; a header that is not that of the image wanted means that shard and index do not
belong together, so a wrong image is never handed out.
"""

import hashlib
import os
import tarfile
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import Bytes, open_regular, refuse_special
from masksup.base.words import counted
from masksup.errors import UserError

# Column -> dtype: where each image lies. They are no part of the index's hash, which identifies what is scored.
LOCATIONS = {"shard_I": "<i4", "offset_I": "<i8", "length_I": "<i8"}
# CRC-32 of each image, which takes a quarter of the time of its hash. Shards of earlier versions have none.
CHECKSUMS = {"crc_I": "<u4"}
FOLDER = "shards"  # within the folder of the index
BLOCK = tarfile.BLOCKSIZE
OPEN_SHARDS = 64  # descriptors that one thread of a process keeps open for one index
_AGAIN = "expected the shard that masksup shards wrote (pack the index again)"


def read_file(path: Path) -> bytes:
    """The bytes of a file. UserError if it is missing, no regular file or cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file, expected an image") from None
    except OSError as error:
        raise UserError(f"{path}: found it unreadable ({error.strerror}), expected an image") from None


def digest_of(data: Bytes) -> bytes:
    """What an index keeps of the bytes of each image."""
    return hashlib.blake2b(data, digest_size=16).digest()


def tar_header(name: str, length: int) -> bytes:
    """What stands before an image of `length` bytes in a shard; the last block of it is what `Shards.read` checks."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = length, 0o644
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@dataclass(frozen=True, eq=False)
class Shards:
    """The tar shards of one index: `names` and sizes in bytes, and for each image its shard, offset and length."""

    folder: Path
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    shard_I: NDArray[np.int32]
    offset_I: NDArray[np.int64]  # of the image's first byte
    length_I: NDArray[np.int64]
    crc_I: NDArray[np.uint32] | None = None
    _open: "_Descriptors" = field(default_factory=lambda: _Descriptors())

    def path(self, image: int) -> Path:
        """The shard that holds image number `image`."""
        return self.folder / self.names[int(self.shard_I[image])]

    def read(self, image: int, name: str) -> memoryview:
        """The bytes of image number `image`, whose name in the index is `name`.

        UserError, never bytes of something else, for a shard that is missing, cut off, or holds another member there.
        """
        if not 0 <= self.shard_I[image] < len(self.names):
            raise UserError(f"{self.folder}: found no shard number {self.shard_I[image]} for '{name}', {_AGAIN}")
        shard, offset, length = int(self.shard_I[image]), int(self.offset_I[image]), int(self.length_I[image])
        path = self.folder / self.names[shard]
        if offset < BLOCK or length < 0 or offset + length > self.sizes[shard]:
            raise UserError(f"{path}: found no room for '{name}' (bytes {offset} to {offset + length}), {_AGAIN}")
        try:
            data = _read_at(self._open.of(path, self.sizes[shard]), offset - BLOCK, length + BLOCK)
        except FileNotFoundError:
            raise UserError(f"{path}: found no such file, {_AGAIN}") from None
        except OSError as error:
            raise UserError(f"{path}: found it unreadable ({error.strerror}), {_AGAIN}") from None
        if len(data) != length + BLOCK:
            raise UserError(f"{path}: found its end within '{name}' (bytes {offset} to {offset + length}), {_AGAIN}")
        if not _is_member(data[:BLOCK], name, length):
            raise UserError(
                f"{path}: found something else than '{name}' ({counted(length, 'byte')}) at byte {offset}, {_AGAIN}"
            )
        return memoryview(data)[BLOCK:]


class _Descriptor(int):
    """Closes itself with its last owner, which may be a thread that ends."""

    def __del__(self) -> None:
        os.close(self)


class _Descriptors(threading.local):
    """Open shards of one thread, so that none closes what another reads; the least recently used closed first.

    Forked workers may share them, because `pread` has no position that one could move under another.
    """

    def __init__(self) -> None:
        self._of: OrderedDict[Path, _Descriptor] = OrderedDict()

    def of(self, path: Path, size: int) -> int:
        """A descriptor of `path`; UserError unless the file has `size` bytes when it is opened."""
        if path in self._of:
            self._of.move_to_end(path)
            return self._of[path]
        refuse_special(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(descriptor).st_size
        if found != size:
            os.close(descriptor)
            raise UserError(f"{path}: found {counted(found, 'byte')}, expected {size:,} (pack the index again)")
        self._of[path] = _Descriptor(descriptor)
        if len(self._of) > OPEN_SHARDS:
            self._of.popitem(last=False)
        return self._of[path]

    def __len__(self) -> int:
        return len(self._of)


def _is_member(found: bytes, name: str, length: int) -> bool:
    """Whether a header block names this member: name, size, magic. Versions of Python differ in other fields."""
    if name.isascii() and len(name) < 100 and length < 8**11:  # as nearly all are, and 40 times as fast
        fields = (name.encode().ljust(100, b"\0"), b"%011o\0" % length, b"ustar")
    else:
        expected = tar_header(name, length)[-BLOCK:]
        fields = (expected[:100], expected[124:136], expected[257:262])
    return (found[:100], found[124:136], found[257:262]) == fields


def _read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Like `os.pread`, which may give less than was asked for, until the end of the file."""
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
