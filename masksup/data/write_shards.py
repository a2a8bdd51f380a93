"""An index of files -> the same index with its images in tar shards, whole or not at all."""

import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import Bytes, naming, partial_name, sync, to_disk
from masksup.base.words import counted
from masksup.data.index import COLUMNS, Index, columns_hash, open_index, read_header
from masksup.data.reencode import Reencoding, encoded, scaled
from masksup.data.shards import BLOCK, CHECKSUMS, FOLDER, LOCATIONS, digest_of, tar_header
from masksup.data.write_index import header_text, publish
from masksup.errors import UserError

_END = bytes(2 * BLOCK)  # of a tar file
_PLACES = LOCATIONS | CHECKSUMS


class _Member(NamedTuple):
    """shard: its number. offset, length: in bytes. crc, digest: of the content."""

    shard: int
    offset: int
    length: int
    crc: int
    digest: bytes


def pack_index(
    index: Index, out: Path, shard_bytes: int, said: Callable[[str], None], how: Reencoding | None = None
) -> Index:
    """Write the images of `index` as tar shards, and an index that points into them, to the new folder `out`.

    All columns and the hash stay as they are, so scores of the one are scores of the other. A shard is closed before
    it would grow beyond `shard_bytes`; a larger image has one for itself.

    how: the images are other ones then, and so is the hash; the index says so in its note, wherever it is scored.

    UserError if `out` exists, or an image is missing or has changed since the index was prepared.
    """
    out = out.absolute()
    if out.is_symlink() or out.exists():
        raise UserError(f"--out {out}: found it there already, expected a new folder")
    partial = partial_name(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    sizes: list[tuple[int, int]] = []
    try:
        with naming(out):
            (partial / FOLDER).mkdir(parents=True)
            members, shards = _write_shards(index, _contents(index, how, sizes), partial / FOLDER, shard_bytes, said)
            columns: dict[str, NDArray[Any]] = {
                key: np.array([member[i] for member in members], dtype)
                for i, (key, dtype) in enumerate(_PLACES.items())
            }
            changes: dict[str, Any] = {"shards": shards}
            if how is not None:
                digests = np.frombuffer(b"".join(member.digest for member in members), np.uint8).reshape(-1, 16)
                columns |= scaled(index, np.array(sizes, np.int32).reshape(-1, 2)) | {"file_hash_I16": digests}
                changes |= _renamed(index, columns, how)
            _write_index(index, partial, columns, changes)
            publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_index(out)


def _contents(index: Index, how: Reencoding | None, sizes: list[tuple[int, int]]) -> Iterator[Bytes]:
    """The bytes of every image. Puts the size of each that was encoded anew into `sizes`."""
    if how is None:
        yield from map(index.read_image, range(index.images))
        return
    for image in encoded(index, how):
        sizes.append((image.width, image.height))
        yield image.data


def _renamed(index: Index, columns: dict[str, NDArray[Any]], how: Reencoding) -> dict[str, Any]:
    """What the header says of other images: their hash, and what became of them."""
    whole = index.columns | {key: value for key, value in columns.items() if key in COLUMNS}
    return {
        "hash": columns_hash(whole, index.classes, index.exif, index.pixel_range),
        "note": "; ".join(filter(None, (index.note, str(how)))),
        "reencoded": {**how.to_json(), "from": index.hash},
    }


def check_shards(index: Index) -> int:
    """Read every image and compare it with its hash; the number of images. UserError for the first that differs."""
    for image in range(index.images):
        if not index.is_hashed(image, index.read_image(image)):
            raise index.changed(image)
    return index.images


def _write_shards(
    index: Index, contents: Iterator[Bytes], folder: Path, shard_bytes: int, said: Callable[[str], None]
) -> tuple[list[_Member], list[dict[str, Any]]]:
    members: list[_Member] = []
    shards: list[dict[str, Any]] = []
    data = next(contents, None)
    while data is not None:
        first = len(members)
        with (folder / "next").open("wb") as file:
            while data is not None:
                header = tar_header(index.image_name(len(members)), len(data))
                padding = -len(data) % BLOCK
                if len(members) > first and file.tell() + len(header) + len(data) + padding + len(_END) > shard_bytes:
                    break
                file.write(header)
                members.append(_Member(len(shards), file.tell(), len(data), zlib.crc32(data), digest_of(data)))
                file.write(data)
                file.write(bytes(padding))
                data = next(contents, None)
            file.write(_END)
            size = file.tell()
            to_disk(file)
        # Named by what it holds, so that an index can only meet its own shards under a name.
        content = hashlib.blake2b(b"".join(member.digest for member in members[first:]), digest_size=8).hexdigest()
        name = f"{len(shards):05d}-{content}.tar"
        (folder / "next").rename(folder / name)
        shards.append({"name": name, "bytes": size})
        said(f"{name}: {counted(size, 'byte')}, {len(members)} of {counted(index.images, 'image')}")
    sync(folder)
    return members, shards


def _write_index(index: Index, folder: Path, columns: dict[str, NDArray[Any]], changes: dict[str, Any]) -> None:
    """The columns as they are, but for these, and a header that names the shards."""
    header = read_header(index.folder)
    for key in header["columns"]:
        if key not in columns:
            shutil.copyfile(index.folder / f"{key}.npy", folder / f"{key}.npy")
    for key, value in columns.items():
        np.save(folder / f"{key}.npy", value)
    header["columns"] |= {key: list(value.shape) for key, value in columns.items()}
    (folder / "index.json").write_text(header_text(header | changes), encoding="utf-8")
    for file in folder.iterdir():
        if file.is_file():
            sync(file)
