"""What LabelMe writes: a JSON file for each picture, with outlines, and flags of the whole picture -> index."""

import math
from pathlib import Path
from typing import Any

from masksup.data.prepare.beside import files_of_splits, image_of, labelled
from masksup.data.prepare.json_file import number_list, read_json, records
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Box, Row
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_NO_AREA = ("point", "points", "line", "linestrip", "mask")  # a mask has its two corners, and may have none


def prepare_labelme(
    root: Path,
    *,
    split: list[str] | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    none: list[str] | None = None,
    same_case: bool = False,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Splits: the folders train, val, test and the like of `root`, else all is train; or those that `split` names.

    A picture shows the classes of its shapes and those flags that are set; a flag that is not set is absent.
    """
    find, tables = FindImages(root), {}
    for name, files in files_of_splits(root, ".json", split).items():
        tables[name] = labelled(files, [_row(number, file, find) for number, file in enumerate(files)], find)
    rules = ClassRules(classes, tuple(drop_class or ()), tuple(none or ()), same_case)
    return contents_of("labelme", tables, find, root, rules, skip_broken=skip_broken)


def _row(number: int, file: Path, find: FindImages) -> Row:
    content = read_json(file)
    shapes = records(file, content, "shapes", {"label": str, "points": list})
    flags, size = content.get("flags") or {}, (content.get("imageWidth"), content.get("imageHeight"))
    if not isinstance(flags, dict) or not all(isinstance(value, bool) for value in flags.values()):
        raise UserError(f"{file}: found other flags than true and false, expected a file of LabelMe")
    row = Row(number, image_of(file, str(content.get("imagePath") or ""), find), {}, [])
    row.labels = {name: int(value) for name, value in flags.items()}
    row.size = size if all(isinstance(side, int) and side > 0 for side in size) else None
    for n, shape in enumerate(shapes):
        if not shape["label"].strip():
            raise UserError(f"{file}: shapes[{n}]: found 'label' = '', expected the name of a class")
        row.labels[shape["label"]] = 1
        if box := _box(f"{file}: shapes[{n}]", shape):
            assert row.boxes is not None
            row.boxes.append(box)
    return row


def _box(where: str, shape: dict[str, Any]) -> Box | None:
    points = [number_list(where, point, 2) for point in shape["points"]]
    kind = shape.get("shape_type") or "polygon"
    if kind in _NO_AREA or len(points) < 2:
        return None
    xs, ys = zip(*points)
    if kind == "circle":  # its centre, and a point on it
        reach = math.dist(*points[:2])
        return Box(shape["label"], xs[0] - reach, ys[0] - reach, xs[0] + reach, ys[0] + reach)
    return Box(shape["label"], min(xs), min(ys), max(xs), max(ys))
