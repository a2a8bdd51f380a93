"""One COCO file: its images, categories and annotations, checked and tied together by their ids."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masksup.base.words import counted
from masksup.data.prepare.json_file import Kind, number_list, read_json, records
from masksup.errors import UserError

Id = int | str
_ID = (int, float, str)


@dataclass
class Coco:
    """The content of a file. Annotations are those of each image, in the order of the file."""

    file: Path
    images: dict[Id, dict[str, Any]]
    categories: dict[Id, str]
    annotations: dict[Id, list[dict[str, Any]]]
    parents: dict[Id, str] = field(default_factory=dict)
    """The supercategory of each category that has another one than itself."""
    strays: list[str] = field(default_factory=list)
    """What was left out: annotations of no image or of no category."""

    @property
    def federated(self) -> bool:
        """Whether images state for which categories somebody looked, as in LVIS."""
        return any("neg_category_ids" in image for image in self.images.values())

    def empty_parents(self) -> set[Id]:
        """Categories without an annotation that name the kind of other ones, as Roboflow writes one."""
        used = {one["category_id"] for listed in self.annotations.values() for one in listed}
        names = set(self.parents.values())
        return {key for key, name in self.categories.items() if name in names and key not in used}

    def looked_for(self, image_id: Id) -> set[Id]:
        """Categories that somebody looked for and did not find in an image of a federated file."""
        image = self.images[image_id]
        where = f"{self.file}: image {image_id}"
        of = {
            name: {_key(where, name, value) for value in _list(where, name, image.get(name, []))}
            for name in ("neg_category_ids", "not_exhaustive_category_ids")
        }
        return of["neg_category_ids"] - of["not_exhaustive_category_ids"]

    def warnings(self) -> list[str]:
        if not self.strays:
            return []
        return [f"left out {counted(len(self.strays), 'stray annotation')} (first: {self.strays[0]})"]


def read_coco(file: Path, *, skip_broken: bool) -> Coco:
    """Read a file. UserError naming the place of what is malformed; `skip_broken` leaves stray annotations out.

    An id may be a number or a text, and need not be of one kind in both places: 7, 7.0, "7" and "007" are one id.
    """
    content = read_json(file, _without_idle_shape)
    _name_by_url(content)
    images = _by_id(file, "images", records(file, content, "images", {"id": _ID, "file_name": str}))
    categories = _by_id(file, "categories", records(file, content, "categories", {"id": _ID, "name": str}))
    kinds: dict[str, Kind] = {"image_id": _ID, "category_id": _ID}
    annotations = records(file, content, "annotations", kinds)
    coco = Coco(file, images, {key: item["name"] for key, item in categories.items()}, {})
    kinds_of = {key: item.get("supercategory") for key, item in categories.items()}
    coco.parents = {key: of for key, of in kinds_of.items() if isinstance(of, str) and of != coco.categories[key]}
    place = f"{file}: annotations"
    for number, annotation in enumerate(annotations):
        where = f"{place}[{number}]"
        image_id = _key(where, "image_id", annotation["image_id"])
        annotation["category_id"] = _key(where, "category_id", annotation["category_id"])
        if problem := _stray(image_id, annotation, coco):
            if not skip_broken:
                raise UserError(f"{where}: {problem}; --skip-broken leaves such annotations out")
            coco.strays.append(f"{where}: {problem}")
            continue
        _check(where, annotation)
        coco.annotations.setdefault(image_id, []).append(annotation)
    return coco


def _without_idle_shape(item: dict[str, Any]) -> dict[str, Any]:
    """Drops the outline of an object that has a box: nothing reads it, and outlines are most of a file."""
    if item.get("bbox"):
        item.pop("segmentation", None)
    return item


def _name_by_url(content: Any) -> None:
    """Images of LVIS have an address alone, whose last two parts are the folder and the file."""
    images = content.get("images") if isinstance(content, dict) else None
    for image in images if isinstance(images, list) else ():
        if isinstance(image, dict) and "file_name" not in image and isinstance(image.get("coco_url"), str):
            image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])


def _list(where: str, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(item, _ID) for item in value):
        raise UserError(f"{where}: found '{name}' = {json.dumps(value)[:60]}, expected a list of ids")
    return value


def _by_id(file: Path, key: str, items: list[dict[str, Any]]) -> dict[Id, dict[str, Any]]:
    """A repeated id would silently hide the first image."""
    found: dict[Id, dict[str, Any]] = {}
    first: dict[Id, int] = {}
    for number, item in enumerate(items):
        where = f"{file}: {key}[{number}]"
        own = _key(where, "id", item["id"])
        if own in found:
            before = found[own]["id"]
            same = "again" if before == item["id"] else f"and {before!r}, which mean the same,"
            raise UserError(f"{where}: found id {item['id']} {same} (first in {key}[{first[own]}]), expected each once")
        found[own], first[own] = item, number
    return found


def _key(where: str, field_name: str, value: Any) -> Id:
    """What an id stands for, whatever it is written as."""
    if isinstance(value, float):
        if not value.is_integer():
            raise UserError(f"{where}: found '{field_name}' = {value}, expected a whole number or a text")
        return int(value)
    if isinstance(value, str) and (text := value.strip()).isascii() and text.isdigit() and len(text) < 100:
        return int(text)
    return value.strip() if isinstance(value, str) else int(value)


def _stray(image_id: Id, annotation: dict[str, Any], coco: Coco) -> str:
    if image_id not in coco.images:
        return f"found image_id {json.dumps(annotation['image_id'])[:60]}, expected an id of 'images'"
    category = annotation["category_id"]
    if category not in coco.categories:
        return (
            f"found the unknown class {str(category)[:60]} (category_id), expected one of the "
            f"{len(coco.categories)} ids of 'categories'"
        )
    return ""


def _check(where: str, annotation: dict[str, Any]) -> None:
    if annotation.get("bbox") not in (None, []):
        number_list(f"{where}: bbox", annotation["bbox"], 4)
    if not isinstance(annotation.get("id", 0), _ID):  # nothing here uses it, but a list is damage
        raise UserError(f"{where}: found 'id' = {json.dumps(annotation['id'])[:60]}, expected int or text")
    crowd = annotation.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise UserError(f"{where}: found 'iscrowd' = {json.dumps(crowd)[:60]}, expected 0, 1, false or true")


def box_of(where: str, annotation: dict[str, Any]) -> list[float] | None:
    """x, y, width, height in px: as stated, else around the polygons or the mask; None for a label of the image."""
    if annotation.get("bbox"):
        box: list[float] = annotation["bbox"]
        return box
    shape = annotation.get("segmentation")
    if not shape:
        return None
    try:
        if isinstance(shape, dict):
            return _around_mask(shape)
        rings = shape if isinstance(shape[0], list) else [shape]
        xs, ys = ([float(v) for ring in rings for v in ring[axis::2]] for axis in (0, 1))
        number_list(where, [min(xs), min(ys), max(xs), max(ys)], 4)
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    except (TypeError, ValueError, KeyError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{where}: segmentation: found {json.dumps(shape)[:60]}, expected polygons or an RLE"
        ) from error


def _around_mask(shape: dict[str, Any]) -> list[float] | None:
    """Around a run-length encoding (columns after each other, first of what is outside), or None if it is empty."""
    height, width = (int(side) for side in shape["size"])
    counts = shape["counts"]
    if isinstance(counts, str):
        from pycocotools import mask

        if height <= 0 or width <= 0:
            raise ValueError("no area")
        found = [float(v) for v in mask.toBbox({"size": [height, width], "counts": counts.encode("ascii")})]
        return found if found[2] > 0 and found[3] > 0 else None
    at, rows, columns = 0, [], []
    for number, count in enumerate(counts):
        if count < 0:
            raise ValueError("a negative run")
        if number % 2 and count:
            first, last = at, at + int(count) - 1
            columns += [first // height, last // height]
            rows += [0, height - 1] if first // height != last // height else [first % height, last % height]
        at += int(count)
    if at != height * width:
        raise ValueError("runs of another size")
    if not rows:
        return None
    left, top = float(min(columns)), float(min(rows))
    return [left, top, max(columns) + 1 - left, max(rows) + 1 - top]
