"""An index of files -> the same index with its images in tar shards, whole or not at all."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import naming, partial_name, sync, to_disk
from masksup.base.words import counted
from masksup.data.index import Index, open_index, read_header
from masksup.data.shards import BLOCK, FOLDER, LOCATIONS, digest_of, tar_header
from masksup.data.write_index import header_text, publish
from masksup.errors import UserError

_END = bytes(2 * BLOCK)  # of a tar file
# Of a member: shard number, offset and length in bytes, digest of the content.
_Member = tuple[int, int, int, bytes]


def pack_index(index: Index, out: Path, shard_bytes: int, said: Callable[[str], None]) -> Index:
    """Write the images of `index` as tar shards, and an index that points into them, to the new folder `out`.

    All columns and the hash stay as they are, so scores of the one are scores of the other. A shard is closed before
    it would grow beyond `shard_bytes`; a larger image has one for itself.

    UserError if `out` exists, or an image is missing or has changed since the index was prepared.
    """
    out = out.absolute()
    if out.is_symlink() or out.exists():
        raise UserError(f"--out {out}: found it there already, expected a new folder")
    partial = partial_name(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(out):
            (partial / FOLDER).mkdir(parents=True)
            members, shards = _write_shards(index, partial / FOLDER, shard_bytes, said)
            locations = {key: np.array([member[i] for member in members], dtype)
                         for i, (key, dtype) in enumerate(LOCATIONS.items())}  # fmt: skip
            _write_index(index, partial, locations, shards)
            publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_index(out)


def check_shards(index: Index) -> int:
    """Read every image and compare it with its hash; the number of images. UserError for the first that differs."""
    for image in range(index.images):
        index.read_image(image)
    return index.images


def _write_shards(
    index: Index, folder: Path, shard_bytes: int, said: Callable[[str], None]
) -> tuple[list[_Member], list[dict[str, Any]]]:
    members: list[_Member] = []
    shards: list[dict[str, Any]] = []
    image = 0
    while image < index.images:
        with (folder / "next").open("wb") as file:
            members += _fill(file, index, image, len(shards), shard_bytes)
            size = file.tell()
            to_disk(file)
        # Named by what it holds, so that an index can only meet its own shards under a name.
        content = hashlib.blake2b(b"".join(member[3] for member in members[image:]), digest_size=8).hexdigest()
        name = f"{len(shards):05d}-{content}.tar"
        (folder / "next").rename(folder / name)
        image = len(members)
        shards.append({"name": name, "bytes": size})
        said(f"{name}: {counted(size, 'byte')}, {image} of {counted(index.images, 'image')}")
    sync(folder)
    return members, shards


def _fill(file: BinaryIO, index: Index, first: int, shard: int, shard_bytes: int) -> Iterator[_Member]:
    """Write images from number `first` on until the shard is full."""
    for image in range(first, index.images):
        data = index.read_image(image)
        header = tar_header(index.image_name(image), len(data))
        padding = -len(data) % BLOCK
        if image > first and file.tell() + len(header) + len(data) + padding + len(_END) > shard_bytes:
            break
        file.write(header)
        yield shard, file.tell(), len(data), digest_of(data)
        file.write(data + bytes(padding))
    file.write(_END)


def _write_index(index: Index, folder: Path, locations: dict[str, NDArray[Any]], shards: list[dict[str, Any]]) -> None:
    """The columns as they are, those of the locations beside them, and a header that names the shards."""
    header = read_header(index.folder)
    for key in header["columns"]:
        if key not in locations:
            shutil.copyfile(index.folder / f"{key}.npy", folder / f"{key}.npy")
    for key, value in locations.items():
        np.save(folder / f"{key}.npy", value)
    header["columns"] |= {key: list(value.shape) for key, value in locations.items()}
    header["shards"] = shards
    (folder / "index.json").write_text(header_text(header), encoding="utf-8")
    for file in folder.iterdir():
        if file.is_file():
            sync(file)
