"""What CVAT exports as "CVAT for images 1.1": annotations.xml, with tags of images, boxes and outlines."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from masksup.base.words import counted
from masksup.data.index import OCCLUDED
from masksup.data.prepare.options import MAX_NUMBER, existing_file, named_splits
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of, images_folder
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Box, Labelled, Row
from masksup.data.prepare.voc_xml import read_xml
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_SHAPES = ("box", "polygon", "polyline", "ellipse", "mask", "points", "cuboid", "skeleton")


def prepare_cvat(
    root: Path,
    *,
    split: list[str] | None = None,
    images: str | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    none: list[str] | None = None,
    same_case: bool = False,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Splits: the subsets of annotations.xml where it has any, else train; or each NAME=FILE of `split`.

    An image shows a class with a tag or a shape of it. Images are looked for in `images`, by default the folder images
    of the export, or `root`.
    """
    folder = images_folder(root, images or ("images" if (root / "images").is_dir() else None))
    named = named_splits(split or [])
    tables: dict[str, Labelled] = {}
    for name, given in named.items():
        subsets = _labelled(existing_file(given or f"{name}.xml", root), name)
        if len(subsets) > 1:
            raise UserError(f"--split {name}: found the subsets {', '.join(subsets)}, expected one in each file")
        tables |= dict(zip([name], subsets.values()))
    tables = tables or _labelled(existing_file("annotations.xml", root), "train")
    rules = ClassRules(classes, tuple(drop_class or ()), tuple(none or ()), same_case)
    return contents_of("cvat", tables, FindImages(folder), root, rules, skip_broken=skip_broken)


def _labelled(file: Path, split: str) -> dict[str, Labelled]:
    """{subset: its rows}; of images without a subset, `split`."""
    root = read_xml(file, "annotations")
    if root.find("track") is not None:
        raise UserError(f"{file}: found <track>, which is of a video; export as CVAT for images 1.1")
    images = root.findall("image")
    if not images:
        raise UserError(f"{file}: found no <image>, expected an export as CVAT for images 1.1")
    stated = [label.findtext("name") or "" for label in root.iterfind("meta//labels/label")]
    tables: dict[str, Labelled] = {}
    for number, image in enumerate(images):
        name = image.get("subset") or split
        columns = tuple(dict.fromkeys(label.strip() for label in stated)) or None
        table = tables.setdefault(name, Labelled(file, columns, [], [], lambda number: f"{file}, image {number}"))
        table.rows.append(_row(f"{file}, image {number}", number, image))
    if attributes := root.findall("image/*/attribute"):
        first = f"{attributes[0].get('name')}={(attributes[0].text or '').strip()}"
        next(iter(tables.values())).warnings.append(
            f"{counted(len(attributes), 'attribute')} of tags and shapes left out (first: {first}); only labels are "
            "classes"
        )
    return tables


def _row(where: str, number: int, image: ElementTree.Element) -> Row:
    marked = [element for element in image if element.tag in ("tag", *_SHAPES)]
    size = image.get("width", ""), image.get("height", "")
    row = Row(number, (image.get("name") or "").strip(), {}, [])
    row.size = (int(size[0]), int(size[1])) if all(map(str.isdecimal, size)) else None
    for element in marked:
        label = (element.get("label") or "").strip()
        if not label:
            raise UserError(f"{where}: found <{element.tag}> without a label, expected label='...'")
        row.labels[label] = 1
        if corners := _corners(where, element):
            assert row.boxes is not None
            row.boxes.append(Box(label, *corners, flags=OCCLUDED if element.get("occluded") == "1" else 0))
    return row


def _corners(where: str, element: ElementTree.Element) -> tuple[float, float, float, float] | None:
    """xyxy in px around a shape; None of what has no extent, or is turned."""
    texts: list[str]
    if element.tag == "box" and not (element.get("rotation") or "").strip("0."):
        texts = [element.get(key, "") for key in ("xtl", "ytl", "xbr", "ybr")]
    elif element.tag in ("polygon", "polyline"):
        texts = element.get("points", "").replace(";", ",").split(",")
    else:
        return None
    try:
        values = [float(text) for text in texts]
    except ValueError:
        values = []
    if len(values) < 4 or not all(abs(value) <= MAX_NUMBER for value in values):
        raise UserError(f"{where}: found <{element.tag}> of {','.join(texts)[:60]!r}, expected numbers of px")
    xs, ys = values[::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)
