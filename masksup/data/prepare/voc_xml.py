"""One VOC annotation file: objects with class, box and flags."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import read_regular
from masksup.data.index import DIFFICULT, OCCLUDED, TRUNCATED
from masksup.data.prepare.options import MAX_NUMBER
from masksup.errors import UserError

_FLAGS = {"difficult": DIFFICULT, "truncated": TRUNCATED, "occluded": OCCLUDED}


@dataclass(frozen=True)
class Annotation:
    """K objects of one image."""

    file: Path
    size: tuple[int, int] | None  # width, height as stated
    names: tuple[str, ...]
    boxes_K4: NDArray[np.float32]  # xyxy px, 0-based, end exclusive
    flags_K: NDArray[np.uint8]


def read_annotation(file: Path) -> Annotation:
    """Read one XML file. UserError naming file and line if it is malformed or lacks what VOC files have."""
    try:
        data = read_regular(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}, expected a readable XML file") from error
    # Entities can expand to gigabytes or read other files; no VOC file declares any. UTF-16 would hide the
    # declaration from this search, and is not used either.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data:
        raise UserError(f"{file}: found a document type, entity or zero byte, expected a plain VOC annotation")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        line = error.position[0]
        raise UserError(f"{file}, line {line}: malformed XML ({error}), expected a VOC annotation") from error
    except (ValueError, LookupError) as error:  # an encoding that does not exist or does not fit
        raise UserError(f"{file}, line 1: malformed XML ({error}), expected a VOC annotation") from error
    if root.tag != "annotation":
        raise UserError(f"{file}: found <{root.tag}>, expected <annotation>")
    # Only direct children: VOC2012 nests body <part>s with names and boxes of their own in an object.
    objects = [_object(file, number, element) for number, element in enumerate(root.findall("object"), 1)]
    return Annotation(
        file, _size(file, root), tuple(name for name, _, _ in objects),
        np.array([box for _, box, _ in objects], np.float32).reshape(-1, 4),
        np.array([flags for _, _, flags in objects], np.uint8),
    )  # fmt: skip


def _object(
    file: Path, number: int, element: ElementTree.Element
) -> tuple[str, tuple[float, float, float, float], int]:
    where = f"{file}, object {number}"
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{where}: found no <name>, expected a class")
    box = element.find("bndbox")
    if box is None:
        raise UserError(f"{where}: found no <bndbox>, expected xmin, ymin, xmax, ymax")
    x0, y0, x1, y1 = (_number(where, box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    flags = 0
    for key, bit in _FLAGS.items():
        text = (element.findtext(key) or "0").strip()
        if text.lower() not in ("0", "1", "true", "false"):
            raise UserError(f"{where}: found <{key}> '{text}', expected 0 or 1")
        flags |= bit if text.lower() in ("1", "true") else 0
    # VOC pixels count from 1 and xmax, ymax are inside the box.
    return name, (x0 - 1, y0 - 1, x1, y1), flags


def _number(where: str, element: ElementTree.Element, key: str) -> float:
    text = (element.findtext(key) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) <= MAX_NUMBER:  # refuses nan as well
        raise UserError(f"{where}: found <{key}> '{text[:60]}', expected a number of px (none beyond {MAX_NUMBER:.0e})")
    return value


def _size(file: Path, root: ElementTree.Element) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    width, height = (_number(f"{file}, <size>", size, key) for key in ("width", "height"))
    # Some annotation tools write 0x0 for "not known".
    return (int(width), int(height)) if width and height else None
