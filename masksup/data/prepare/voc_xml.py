"""One VOC annotation file: objects with class, box and flags."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import read_regular
from masksup.data.index import DIFFICULT, OCCLUDED, TRUNCATED
from masksup.data.prepare.options import MAX_NUMBER
from masksup.errors import UserError

_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*?\?>")
_COORDINATE = re.compile(r"[xy]\d*")
_FLAGS = {"difficult": DIFFICULT, "truncated": TRUNCATED, "occluded": OCCLUDED}


@dataclass(frozen=True)
class Annotation:
    """K objects of one image."""

    file: Path
    image: str  # as stated; may be empty
    size: tuple[int, int] | None  # width, height as stated
    names: tuple[str, ...]
    boxes_K4: NDArray[np.float32]  # xyxy px, 0-based, end exclusive
    flags_K: NDArray[np.uint8]


def read_annotation(file: Path) -> Annotation:
    """Read one XML file. UserError naming file and line if it is malformed or lacks what VOC files have."""
    root = read_xml(file, "annotation")
    # Only direct children: VOC2012 nests body <part>s with names and boxes of their own in an object.
    # LabelMe keeps what its user has deleted, with a mark.
    numbered = enumerate(root.findall("object"), 1)
    objects = [
        _object(file, number, element)
        for number, element in numbered
        if (element.findtext("deleted") or "").strip() not in ("1", "true")
    ]
    return Annotation(
        file, (root.findtext("filename") or "").strip(), _size(file, root), tuple(name for name, _, _ in objects),
        np.array([box for _, box, _ in objects], np.float32).reshape(-1, 4),
        np.array([flags for _, _, flags in objects], np.uint8),
    )  # fmt: skip


def read_xml(file: Path, tag: str) -> ElementTree.Element:
    """The content <`tag`> of an XML file, without namespaces. UserError naming file and line if it is another."""
    try:
        data = read_regular(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}, expected a readable XML file") from error
    text = _decoded(file, data)
    # Entities can expand to gigabytes or read other files; no annotation declares any.
    if "<!DOCTYPE" in text or "<!ENTITY" in text or "\0" in text:
        raise UserError(f"{file}: found a document type, entity or zero byte, expected a plain VOC annotation")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        line = error.position[0]
        raise UserError(f"{file}, line {line}: malformed XML ({error}), expected <{tag}>") from error
    for element in root.iter():  # a namespace says who wrote the file, not what is in it
        element.tag = str(element.tag).rpartition("}")[2]
    if root.tag != tag:
        raise UserError(f"{file}: found <{root.tag}>, expected <{tag}>")
    return root


def _decoded(file: Path, data: bytes) -> str:
    """The text without its declaration: in UTF-8 or UTF-16, or in the encoding that it declares, which Python knows."""
    declared = _DECLARED.match(data)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif data[:2] in (b"<\0", b"\0<"):
        encoding = "utf-16-le" if data[1] == 0 else "utf-16-be"
    else:
        encoding = declared[1].decode("ascii") if declared else "utf-8"
    encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    try:
        return _DECLARATION.sub("", data.decode(encoding))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: malformed XML: found bytes that are no {encoding.removesuffix('-sig')} (at {error.start}), "
            "expected the encoding that its first line declares, or UTF-8"
        ) from None
    except (LookupError, ValueError) as error:
        raise UserError(f"{file}, line 1: malformed XML ({error}), expected a VOC annotation") from error


def _object(
    file: Path, number: int, element: ElementTree.Element
) -> tuple[str, tuple[float, float, float, float], int]:
    where = f"{file}, object {number}"
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{where}: found no <name>, expected a class")
    x0, y0, x1, y1 = _corners(where, element)
    flags = sum(bit for key, bit in _FLAGS.items() if _flag(where, key, (element.findtext(key) or "0").strip()))
    # VOC pixels count from 1 and xmax, ymax are inside the box.
    return name, (x0 - 1, y0 - 1, x1, y1), flags


def _corners(where: str, element: ElementTree.Element) -> tuple[float, float, float, float]:
    """xmin, ymin, xmax, ymax of the box, or around the polygon where there is none."""
    box = element.find("bndbox")
    if box is not None:
        xmin, ymin, xmax, ymax = (_number(where, box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
        return xmin, ymin, xmax, ymax
    # <polygon><x1>..<y1>.. or <polygon><pt><x>..<y>..
    outlines = [one for name in ("polygon", "segmentation") for one in element.findall(name)]
    points = [point for outline in outlines for point in outline.iter() if _COORDINATE.fullmatch(str(point.tag))]
    xs, ys = ([_value(where, point) for point in points if str(point.tag)[0] == axis] for axis in "xy")
    if len(xs) < 2 or len(xs) != len(ys):
        raise UserError(f"{where}: found no <bndbox> and no <polygon>, expected xmin, ymin, xmax, ymax")
    return min(xs), min(ys), max(xs), max(ys)


def _flag(where: str, key: str, text: str) -> bool:
    """0 or 1 in any way of writing it; how much of an object is truncated or occluded may be a share or a grade."""
    word = text.lower()
    if word in ("true", "false"):
        return word == "true"
    if word == "unspecified" and key != "difficult":
        return False
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    graded = key != "difficult" and 0 <= value <= MAX_NUMBER
    if not graded and value not in (0, 1):
        raise UserError(f"{where}: found <{key}> '{text}', expected 0 or 1")
    return value > 0


def _number(where: str, element: ElementTree.Element, key: str) -> float:
    found = element.find(key)
    if found is None:
        raise UserError(f"{where}: found no <{key}> in <{element.tag}>, expected a number of px")
    return _value(where, found)


def _value(where: str, element: ElementTree.Element) -> float:
    text = (element.text or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) <= MAX_NUMBER:  # refuses nan as well
        raise UserError(
            f"{where}: found <{element.tag}> '{text[:60]}', expected a number of px (none beyond {MAX_NUMBER:.0e})"
        )
    return value


def _size(file: Path, root: ElementTree.Element) -> tuple[int, int] | None:
    size = root.find("size")
    if size is None:
        return None
    width, height = (_number(f"{file}, <size>", size, key) for key in ("width", "height"))
    # Some annotation tools write 0x0 for "not known".
    return (int(width), int(height)) if width and height else None
