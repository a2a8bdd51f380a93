"""A synthetic multi-object data set in true VOCdevkit layout, drawn on the spot.

It lets the tour and the tests go through the real VOC preparer without any download. Its scores say nothing about
photographs, so they are marked as synthetic wherever they are shown.

As in VOC, a box is the extent of the visible part. `truncated`: at least 5 % of the object lies outside the image.
`occluded`: at least 10 % of what lies inside is hidden by others. `difficult`: less than 35 % of it can be seen, or
the shorter side of its box is under 8 % of the image's side. Less than 15 % visible does not happen.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from masksup.base.files import as_json, naming, partial_name, read_json
from masksup.data.prepare.voc import DataSet, read_voc
from masksup.data.shapes_picture import CLASSES, Shape, draw_image
from masksup.data.write_index import IndexContent
from masksup.errors import UserError


def prepare_shapes(
    root: Path, *, train: int = 1500, val: int = 300, test: int = 300, size: int = 112, seed: int = 0
) -> list[IndexContent]:
    """Synthetic shapes, drawn below `root` if they are not there, then read as any data set in VOC layout."""
    draw_shapes(root, train, val, test, size, seed)
    return read_voc(root / "VOCdevkit" / "VOC2007", DataSet("shapes", CLASSES, note="synthetic"))


def draw_shapes(root: Path, train: int, val: int, test: int, size: int, seed: int) -> None:
    """Draw root/VOCdevkit/VOC2007 with train, val and test images of size x size px; the same bytes for one seed.

    Drawn aside and renamed when whole. What is there already is kept if it was drawn with the same numbers, else a
    UserError.
    """
    made = {"train": train, "val": val, "test": test, "size": size, "seed": seed, "classes": list(CLASSES)}
    devkit = root / "VOCdevkit"
    if devkit.exists():
        _check_same(devkit, made)
        return
    partial = partial_name(devkit)
    try:
        with naming(devkit):
            _draw(partial / "VOC2007", train, val, test, size, seed)
            (partial / "shapes.json").write_text(as_json(made, indent=1) + "\n", encoding="utf-8")
            partial.rename(devkit)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _draw(folder: Path, train: int, val: int, test: int, size: int, seed: int) -> None:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    labels: dict[str, dict[str, int]] = {}
    for number in range(train + val + test):
        image_id = f"{number + 1:06d}"
        pixels_HW3, objects = draw_image(size, seed, number)
        Image.fromarray(pixels_HW3).save(folder / "JPEGImages" / f"{image_id}.jpg", quality=90)
        _annotation(image_id, size, objects).write(folder / "Annotations" / f"{image_id}.xml", encoding="utf-8")
        labels[image_id] = _labels(objects)
    ids = list(labels)
    splits = {"train": ids[:train], "val": ids[train : train + val], "test": ids[train + val :]}
    splits["trainval"] = ids[: train + val]
    for split, members in splits.items():
        _write_lists(folder / "ImageSets" / "Main", split, members, labels)


def _labels(objects: Sequence[Shape]) -> dict[str, int]:
    """1 for a class with an object that is not difficult, 0 for one with difficult objects alone."""
    labels: dict[str, int] = {}
    for o in objects:
        labels[o.name] = max(labels.get(o.name, 0), int(not o.difficult()))
    return labels


def _annotation(image_id: str, size: int, objects: Sequence[Shape]) -> ElementTree.ElementTree:
    """The XML of VOC2007 (boxes 1-based, ends included), with VOC2012's `occluded`."""
    root = ElementTree.Element("annotation")
    _add(root, folder="VOC2007", filename=f"{image_id}.jpg")
    _add(ElementTree.SubElement(root, "source"), database="masksup shapes", image="synthetic")
    _add(ElementTree.SubElement(root, "size"), width=size, height=size, depth=3)
    _add(root, segmented=0)
    for o in objects:
        x1, y1, x2, y2 = o.box()
        node = ElementTree.SubElement(root, "object")
        _add(node, name=o.name, pose="Unspecified", truncated=int(o.truncated()))
        _add(node, occluded=int(o.occluded()), difficult=int(o.difficult()))
        _add(ElementTree.SubElement(node, "bndbox"), xmin=x1 + 1, ymin=y1 + 1, xmax=x2, ymax=y2)
    ElementTree.indent(root, "\t")
    return ElementTree.ElementTree(root)


def _add(parent: ElementTree.Element, **children: object) -> None:
    for tag, value in children.items():
        ElementTree.SubElement(parent, tag).text = str(value)


def _write_lists(folder: Path, split: str, ids: Sequence[str], labels: dict[str, dict[str, int]]) -> None:
    (folder / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))
    for name in CLASSES:
        lines = (f"{i} {labels[i].get(name, -1):2d}\n" for i in ids)
        (folder / f"{name}_{split}.txt").write_text("".join(lines))


def _check_same(devkit: Path, made: dict[str, Any]) -> None:
    record = devkit / "shapes.json"
    if not record.is_file():
        raise UserError(f"{devkit}: found a folder that shapes did not draw, expected none or our own")
    found = read_json(record, "the record of the data set")
    if found != made:
        key = next(k for k in made if found.get(k) != made[k])
        raise UserError(f"{record}: found {key} {found.get(key)}, expected {made[key]} (remove the folder to redraw)")
