"""The index: what `masksup prepare` writes and everything else reads, a folder of memory-mapped columns.

`index.json` names the columns; each column is one `.npy` file that is mapped into memory, so that all processes of a
node share one copy of the pages. Opening an index reads every column once and compares it with the hash in the header;
an image is compared with its own hash whenever it is read. So a score never names the hash of other data.

Shapes: I images, N samples (a sample is an image, or one person in it), C classes, M boxes of all samples.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import Bytes, json_sha256, read_json, refuse_special
from masksup.data.decode_pil import BrokenImage
from masksup.data.labels import Labels, SparseLabels
from masksup.data.reading import SIXTEEN_BITS, PixelRange, Reading, range_from_text, range_text
from masksup.data.shards import CHECKSUMS, FOLDER, LOCATIONS, Shards, digest_of, read_file
from masksup.errors import UserError

FORMAT = "masksup index"
VERSION, SPARSE_VERSION = 1, 2  # the second has the labels of very many classes as marks
DIFFICULT, TRUNCATED, OCCLUDED, CROWD = 1, 2, 4, 8
SEAL = "header_sha256"  # of all else in the header but `root`, which may be edited: images have hashes of their own

# Column -> dtype. Names and ids are stored as one run of UTF-8 bytes and the offsets into it.
COLUMNS = {
    "sizes_I2": "<i4", "file_hash_I16": "|u1", "sample_image_N": "<i4", "crop_N4": "<f4",
    "labels_NC": "|i1", "box_start_N1": "<i8", "boxes_M4": "<f4", "box_class_M": "<i2",
    "box_share_M": "<f4", "box_flags_M": "|u1",
    "image_name_bytes": "|u1", "image_name_start_I1": "<i8", "id_bytes": "|u1", "id_start_N1": "<i8",
}  # fmt: skip
# In place of labels_NC: those of a sample that are not label_rest.
SPARSE = {"label_start_N1": "<i8", "label_class_L": "<i4", "label_value_L": "|i1", "label_rest_1": "|i1"}


@dataclass(frozen=True, eq=False)
class Index:
    """One split, memory-mapped. Unpickling maps the columns again, which are neither copied nor hashed then."""

    folder: Path
    root: Path  # images are relative to it; looked for when the first image is asked for
    name: str  # data set, e.g. "voc2007"
    split: str
    classes: tuple[str, ...]
    exif: bool  # whether decoding applies the EXIF orientation
    turned: int  # images whose EXIF orientation says that they are turned; older indexes did not count them
    verified: bool  # whether `prepare --verify` decoded every image, so that none of them ends early
    pixel_range: PixelRange  # the values of deeper pictures that become 0 and 255; None: there were none
    hash: str  # sha256 of all columns, the classes, `exif` and `pixel_range`: identifies what is scored
    note: str  # said wherever a score is shown, e.g. "synthetic"
    sizes_I2: NDArray[np.int32]  # width, height in px, after the EXIF rotation if `exif`
    file_hash_I16: NDArray[np.uint8]  # blake2b-128 of the file's bytes
    sample_image_N: NDArray[np.int32]
    crop_N4: NDArray[np.float32]  # xyxy px; shape (0, 4) where samples are whole images
    labels_NC: Labels  # int8: 1 present, 0 absent, -1 ignored
    box_start_N1: NDArray[np.int64]  # sample n owns boxes [start[n], start[n + 1])
    boxes_M4: NDArray[np.float32]  # xyxy px (0-based, end exclusive) in the image's frame
    box_class_M: NDArray[np.int16]
    box_share_M: NDArray[np.float32]  # area of the box / area of the image
    box_flags_M: NDArray[np.uint8]  # bits DIFFICULT, TRUNCATED, OCCLUDED, CROWD
    image_name_bytes: NDArray[np.uint8]
    image_name_start_I1: NDArray[np.int64]
    id_bytes: NDArray[np.uint8]
    id_start_N1: NDArray[np.int64]
    shards: Shards | None = None  # where the images are, if not in files below `root`

    def __len__(self) -> int:
        return len(self.sample_image_N)

    def __reduce__(self) -> Any:
        return _open_again, (self.folder, self.hash)

    def id(self, sample: int) -> str:
        """The unique id of a sample, as in the annotations."""
        return _text(self.id_bytes, self.id_start_N1, sample)

    @property
    def reading(self) -> Reading:
        """How other files are to be read so that they look as these do."""
        return Reading(self.exif or not self.turned, self.pixel_range)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns as they are stored."""
        return stored({key: getattr(self, key) for key in COLUMNS})

    @property
    def images(self) -> int:
        """How many images there are; a sample is one of them or lies in one."""
        return len(self.sizes_I2)

    def image_name(self, image: int) -> str:
        """Name of image number `image`: its path relative to `root` when the data were prepared."""
        return _text(self.image_name_bytes, self.image_name_start_I1, image)

    def read_image(self, image: int) -> Bytes:
        """The file of image number `image`, or what a shard holds of it.

        UserError where it is not to be had, BrokenImage where it is not what it was when the index was made.
        """
        if self.shards is not None:
            data: Bytes = self.shards.read(image, self.image_name(image))
        else:
            data = read_file(self._file(image))
        checksums = None if self.shards is None else self.shards.crc_I
        if not (self.is_hashed(image, data) if checksums is None else zlib.crc32(data) == checksums[image]):
            raise self.changed(image)
        return data

    def is_hashed(self, image: int, data: Bytes) -> bool:
        """Whether these are the bytes that the index has the hash of."""
        return bool(digest_of(data) == self.file_hash_I16[image].tobytes())

    def changed(self, image: int) -> BrokenImage:
        """The error for an image that is another one now."""
        return BrokenImage(
            f"{self.where_image(image)}: found other bytes than when the index {self.folder} was made, expected "
            "the same file (put it back, or prepare the data again)"
        )

    def read(self, sample: int) -> Bytes:
        """The same for the image that sample number `sample` lies in."""
        return self.read_image(int(self.sample_image_N[sample]))

    def where_image(self, image: int) -> str:
        """For messages: the file of image number `image`, or its shard and its name there."""
        if self.shards is not None:
            return f"{self.shards.path(image)}: {self.image_name(image)}"
        return str(self.root / self.image_name(image))

    def where(self, sample: int) -> str:
        """The same for the image that sample number `sample` lies in."""
        return self.where_image(int(self.sample_image_N[sample]))

    def path(self, sample: int) -> Path:
        """File of the image that a sample lies in, of an index of files. UserError when the root is gone."""
        assert self.shards is None, f"{self.folder}: its images are in shards"
        return self._file(int(self.sample_image_N[sample]))

    def _file(self, image: int) -> Path:
        path = self.root / self.image_name(image)
        if not path.exists() and not self.root.is_dir():
            raise UserError(
                f"{self.folder}: found no folder '{self.root}', expected the images there (prepare the data "
                "again with --root where they are now)"
            )
        return path

    def boxes(
        self, sample: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int16], NDArray[np.float32], NDArray[np.uint8]]:
        """Boxes of a sample: xyxy_K4 in px, class_K, share_K of the area, flags_K."""
        own = slice(int(self.box_start_N1[sample]), int(self.box_start_N1[sample + 1]))
        return self.boxes_M4[own], self.box_class_M[own], self.box_share_M[own], self.box_flags_M[own]


def open_index(folder: Path) -> Index:
    """Open the index in `folder`, and compare its columns with the hash in its header.

    UserError for a missing folder, one that is no index, another format version, or a damaged header or column.
    """
    index = mapped(Path(folder))
    if columns_hash(index.columns, index.classes, index.exif, index.pixel_range) != index.hash:
        raise UserError(
            f"{index.folder}: damaged: its columns (*.npy) are not those that the hash in index.json is of; prepare "
            "the data again"
        )
    return index


def _open_again(folder: Path, expected: str) -> Index:
    """In another process: the index that was checked when it was opened first."""
    index = mapped(folder)
    if index.hash != expected:
        raise UserError(f"{folder}: found another index there than when it was opened, expected it to stay as it is")
    return index


def mapped(folder: Path) -> Index:
    header = read_header(folder)
    try:
        fields = {key: header[key] for key in ("name", "split", "exif", "hash", "note")}
        fields["turned"] = int(header.get("turned", 0))
        fields["verified"] = bool(header.get("verified", False))
        pixels = str(header.get("pixel_range", range_text(SIXTEEN_BITS)))
        fields["pixel_range"] = range_from_text(pixels, f"{folder / 'index.json'}: pixel_range")
        classes, root, shapes = tuple(header["classes"]), Path(header["root"]), header["columns"]
        columns = _columns(folder, shapes, len(classes))
        shards = _shards(folder, header)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder / 'index.json'}: damaged header ({error}): prepare the data again") from error
    return Index(folder=folder, root=root, classes=classes, shards=shards, **fields, **columns)


def _columns(folder: Path, shapes: dict[str, list[int]], classes: int) -> dict[str, Any]:
    kinds = COLUMNS if "labels_NC" in shapes else COLUMNS | SPARSE
    found = {key: _column(folder, key, dtype, shapes[key]) for key, dtype in kinds.items() if key in shapes}
    if "labels_NC" not in shapes:
        start_N1, class_L, value_L, rest_1 = (found.pop(key) for key in SPARSE)
        found["labels_NC"] = SparseLabels(start_N1, class_L, value_L, classes, int(rest_1[0]))
    return {key: found[key] for key in COLUMNS}


def stored(columns: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Columns in memory -> those on the disk, in their order: of sparse labels, their marks."""
    labels = columns["labels_NC"]
    if not isinstance(labels, SparseLabels):
        return columns
    marks = (labels.start_N1, labels.class_L, labels.value_L, np.array([labels.rest], np.int8))
    return {key: value for key, value in columns.items() if key != "labels_NC"} | dict(zip(SPARSE, marks))


def _shards(folder: Path, header: dict[str, Any]) -> Shards | None:
    if "shards" not in header:
        return None
    names = tuple(str(shard["name"]) for shard in header["shards"])
    sizes = tuple(int(shard["bytes"]) for shard in header["shards"])
    shapes = header["columns"]
    kinds = LOCATIONS | {key: dtype for key, dtype in CHECKSUMS.items() if key in shapes}
    located = {key: _column(folder, key, dtype, shapes[key]) for key, dtype in kinds.items()}
    return Shards(folder / FOLDER, names, sizes, **located)


def header_hash(header: dict[str, Any]) -> str:
    facts = {key: value for key, value in header.items() if key not in ("root", SEAL)}
    return json_sha256(facts)


def read_header(folder: Path) -> dict[str, Any]:
    """The content of `index.json`. UserError where there is none, or another or damaged one."""
    file = folder / "index.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected an index (`masksup prepare` writes one)")
    if not file.exists():
        splits = sorted(child.name for child in folder.iterdir() if (child / "index.json").is_file())
        if splits:
            raise UserError(f"{folder}: found splits {', '.join(splits)}, expected one: {folder / splits[0]}")
        raise UserError(f"{folder}: found no index.json, expected an index (`masksup prepare` writes one)")
    header = read_json(file, "the header of an index")
    if header.get("format") != FORMAT:
        raise UserError(f"{file}: found another kind of JSON, expected the header of an index")
    if header.get("version") not in (VERSION, SPARSE_VERSION):
        found = header.get("version")
        raise UserError(
            f"{file}: format version {found}, expected {VERSION} or {SPARSE_VERSION}: prepare the data again"
        )
    if header.get(SEAL, sealed := header_hash(header)) != sealed:  # old ones have none
        raise UserError(f"{file}: damaged header (its {SEAL} is of another): prepare the data again")
    return header


def _column(folder: Path, key: str, dtype: str, shape: list[int]) -> Any:
    file = folder / f"{key}.npy"
    try:
        refuse_special(file)
        column = np.lib.format.open_memmap(file, mode="r")
    except UserError:
        raise
    except Exception as error:  # numpy evaluates the head of the file, which may fail in any way
        problem = "no such file" if isinstance(error, FileNotFoundError) else "truncated or damaged"
        raise UserError(f"{file}: {problem}, expected a column of {shape}: prepare the data again") from error
    if list(column.shape) != shape or column.dtype.str != dtype or not column.flags.c_contiguous:
        raise UserError(f"{file}: found {column.dtype.str} {list(column.shape)}, expected {dtype} {shape}")
    return np.asarray(column)  # a view of the file still, whose numbers are read at a third of the price


def _text(data: NDArray[np.uint8], start: NDArray[np.int64], item: int) -> str:
    # A negative number would silently give the wrong end of the list.
    if not 0 <= item < len(start) - 1:
        raise IndexError(item)
    return data[int(start[item]) : int(start[item + 1])].tobytes().decode("utf-8")


def columns_hash(
    columns: dict[str, NDArray[Any]], classes: tuple[str, ...], exif: bool, pixel_range: PixelRange
) -> str:  # fmt: skip
    # What every index had before there were ranges, and what concerns no file of this one, leaves the hash as it was.
    ranged = [] if pixel_range in (None, SIXTEEN_BITS) else [range_text(pixel_range)]
    digest = hashlib.sha256(json.dumps([FORMAT, VERSION, list(classes), exif, *ranged]).encode("utf-8"))
    for key, value in columns.items():
        digest.update(f"{key} {value.dtype.str} {value.shape}".encode())
        digest.update(value.data if value.size else b"")  # not copied: a column may be larger than the memory
    return digest.hexdigest()
