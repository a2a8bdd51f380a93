"""Writing an index: whole or not at all, and never over something else."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import as_json, naming, partial_name, read_json, sync, to_disk
from masksup.data.index import (
    COLUMNS,
    FORMAT,
    SEAL,
    SPARSE_VERSION,
    VERSION,
    Index,
    columns_hash,
    header_hash,
    mapped,
    stored,
)
from masksup.data.labels import Labels, SparseLabels
from masksup.data.reading import PixelRange, range_text
from masksup.data.shards import FOLDER
from masksup.errors import UserError


@dataclass(eq=False)
class IndexContent:
    """All that one index holds, before it is written. Shapes and units as in `Index`."""

    root: Path
    name: str
    split: str
    classes: tuple[str, ...]
    exif: bool
    note: str
    image_names: list[str]  # I paths relative to root, with '/'
    ids: list[str]  # N unique sample ids
    sizes_I2: NDArray[np.int32]
    file_hash_I16: NDArray[np.uint8]
    sample_image_N: NDArray[np.int32]
    crop_N4: NDArray[np.float32]
    labels_NC: Labels
    box_start_N1: NDArray[np.int64]
    boxes_M4: NDArray[np.float32]
    box_class_M: NDArray[np.int16]
    box_share_M: NDArray[np.float32]
    box_flags_M: NDArray[np.uint8]
    turned: int = 0
    verified: bool = False
    pixel_range: PixelRange = None
    warnings: tuple[str, ...] = ()  # for the table of `masksup prepare`; not written


def hash_of(content: IndexContent) -> str:
    """The hash that the index of `content` will have."""
    return _hash_of(content, _columns_of(content))


def _hash_of(content: IndexContent, columns: dict[str, Any]) -> str:
    return columns_hash(columns, content.classes, content.exif, content.pixel_range)


def write_index(folder: Path, content: IndexContent) -> Index:
    """Write `content` as the index in `folder`, whole or not at all, and open it.

    An index of ours that is already there is replaced; UserError if anything else is.
    """
    folder = Path(folder).absolute()
    refuse_foreign(folder)
    columns = _columns_of(content)
    version = VERSION if "labels_NC" in columns else SPARSE_VERSION
    header = {
        "format": FORMAT, "version": version, "name": content.name, "split": content.split,
        "root": str(content.root), "exif": content.exif, "turned": content.turned,
        "verified": content.verified,
        "pixel_range": range_text(content.pixel_range), "note": content.note,
        "hash": _hash_of(content, columns),
        "images": len(content.image_names),
        "samples": len(content.ids), "columns": {key: list(value.shape) for key, value in columns.items()},
        "classes": list(content.classes),
    }  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(folder)
    try:
        with naming(folder):
            partial.mkdir()
            for key, value in columns.items():
                with (partial / f"{key}.npy").open("wb") as file:
                    np.save(file, value)
                    to_disk(file)
            with (partial / "index.json").open("w", encoding="utf-8") as text:
                text.write(header_text(header))
                to_disk(text)
            publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return mapped(folder)


def header_text(header: dict[str, Any]) -> str:
    """The content of `index.json`: the header with its own hash."""
    return as_json({**header, SEAL: header_hash(header)}, indent=1, ensure_ascii=False)


def refuse_foreign(folder: Path) -> None:
    """UserError if `folder` holds something that is not an index of ours, which writing would destroy."""
    if folder.is_symlink() or folder.is_file():
        raise UserError(f"{folder}: found a file or link, expected a folder to write the index to")
    if folder.is_dir() and any(folder.iterdir()) and not _is_index(folder):
        raise UserError(f"{folder}: found a folder that is no index, expected a new name or an index")
    if (folder / FOLDER).is_dir():  # hours of work, and perhaps the only copy of the images
        raise UserError(f"{folder}: found an index with tar shards, expected a new name or an index of files")


def _is_index(folder: Path) -> bool:
    try:
        return read_json(folder / "index.json", "the header of an index").get("format") == FORMAT
    except UserError:
        return False


def publish(partial: Path, folder: Path) -> None:
    """Give the written folder `partial` its name, in place of an index that had it."""
    sync(partial)
    retired = partial_name(folder)
    if folder.exists():
        folder.rename(retired)
    partial.rename(folder)
    sync(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _columns_of(content: IndexContent) -> dict[str, NDArray[Any]]:
    name_bytes, name_start = _packed(content.image_names)
    id_bytes, id_start = _packed(content.ids)
    packed = {
        "image_name_bytes": name_bytes, "image_name_start_I1": name_start,
        "id_bytes": id_bytes, "id_start_N1": id_start,
    }  # fmt: skip
    columns: dict[str, Any] = {}
    for key, dtype in COLUMNS.items():
        value = packed[key] if key in packed else getattr(content, key)
        # Marks have their type already.
        columns[key] = value if isinstance(value, SparseLabels) else np.ascontiguousarray(value, dtype=np.dtype(dtype))
    images, samples, boxes = len(content.image_names), len(content.ids), len(columns["boxes_M4"])
    assert columns["sizes_I2"].shape == (images, 2), columns["sizes_I2"].shape
    assert columns["file_hash_I16"].shape == (images, 16)
    assert columns["sample_image_N"].shape == (samples,)
    assert columns["crop_N4"].shape in ((0, 4), (samples, 4))
    assert columns["labels_NC"].shape == (samples, len(content.classes))
    assert columns["box_start_N1"].shape == (samples + 1,)
    assert columns["box_start_N1"][-1] == boxes
    assert columns["boxes_M4"].shape == (boxes, 4)
    for key in ("box_class_M", "box_share_M", "box_flags_M"):
        assert columns[key].shape == (boxes,), key
    assert len(set(content.ids)) == samples, "sample ids repeat"
    return stored(columns)


def _packed(texts: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    encoded = [text.encode("utf-8") for text in texts]
    start = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=start[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), start
