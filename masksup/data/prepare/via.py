"""What the VGG Image Annotator writes: a project, or its annotations as JSON or CSV -> index."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from masksup.base.words import counted, listed
from masksup.data.prepare.json_file import number_list, read_json
from masksup.data.prepare.options import existing_file, named_splits
from masksup.data.prepare.tables.cells import read_table
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of, images_folder
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Box, Labelled, Row
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_OF_VIA = ("caption", "public_domain", "image_url")  # attributes that every new project has
_HEAD = ("filename", "file_attributes", "region_shape_attributes", "region_attributes")


class _Found(NamedTuple):
    """One file as annotated: its own attributes, and of each region the shape and the attributes."""

    where: str
    image: str
    attributes: dict[str, Any]
    regions: list[tuple[dict[str, Any], dict[str, Any]]]


def prepare_via(
    root: Path,
    *,
    split: list[str] | None = None,
    images: str | None = None,
    labels_column: list[str] | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    none: list[str] | None = None,
    same_case: bool = False,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Splits: each NAME=FILE of `split`, else the only .json or .csv file of `root` as train.

    `labels_column`: the attribute that names the class, where regions or files have several.
    """
    folder = images_folder(root, images)
    if labels_column and len(labels_column) > 1:
        raise UserError(f"--labels-column: found {len(labels_column)}, expected the one attribute that names the class")
    given = labels_column[0] if labels_column else None
    named = {name: existing_file(file or f"{name}.json", root) for name, file in named_splits(split or []).items()}
    files = named or {"train": _only_file(root)}
    tables = {name: _labelled(file, [*_read(file)], given) for name, file in files.items()}
    rules = ClassRules(classes, tuple(drop_class or ()), tuple(none or ()), same_case)
    return contents_of("via", tables, FindImages(folder), root, rules, skip_broken=skip_broken)


def _only_file(root: Path) -> Path:
    files = sorted(path for path in root.iterdir() if path.suffix in (".json", ".csv"))
    if len(files) != 1:
        raise UserError(
            f"--root {root}: found {counted(len(files), 'file')} .json and .csv, expected one, or --split NAME=FILE"
        )
    return files[0]


def _read(file: Path) -> Iterable[_Found]:
    if file.suffix.casefold() != ".csv":
        content = read_json(file)
        content = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
        for key, one in content.items() if isinstance(content, dict) else [("", None)]:
            if not isinstance(one, dict) or not isinstance(one.get("filename"), str):
                raise UserError(f"{file}: found no 'filename' in {key[:60]!r}, expected annotations of VIA 1 or 2")
            where = f"{file}: '{one['filename']}'"
            regions = one.get("regions") or []
            regions = [*regions.values()] if isinstance(regions, dict) else regions  # VIA 1
            inner = [_object(where, region) for region in (regions if isinstance(regions, list) else [regions])]
            pairs = [
                (_object(where, r.get("shape_attributes")), _object(where, r.get("region_attributes"))) for r in inner
            ]
            yield _Found(where, one["filename"], _object(where, one.get("file_attributes")), pairs)
        return
    table = read_table(file)
    line, head = table.rows[0]
    if missing := [name for name in _HEAD if name not in head]:
        raise UserError(f"{table.where(line)}: found no column '{missing[0]}', expected annotations of VIA as CSV")
    for line, cells in table.rows[1:]:
        image, *texts = (cells[head.index(name)] if head.index(name) < len(cells) else "" for name in _HEAD)
        try:
            of_file, shape, of_region = (_object(table.where(line), json.loads(text or "{}")) for text in texts)
        except json.JSONDecodeError as error:
            raise UserError(f"{table.where(line)}: malformed JSON in a cell ({error}), expected {{...}}") from None
        yield _Found(table.where(line), image, of_file, [(shape, of_region)] if shape or of_region else [])


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise UserError(f"{where}: found {json.dumps(value)[:60]}, expected an object, as VIA writes attributes")
    return value or {}


def _labelled(file: Path, found: list[_Found], given: str | None) -> Labelled:
    known = {name for one in found for _, attributes in one.regions for name in attributes}
    known |= {name for one in found for name in one.attributes if name not in _OF_VIA or name == given}
    if (len(known) != 1 and given is None) or (given is not None and given not in known):
        raise UserError(
            f"{file}: found {'the attributes ' + listed(sorted(known)) if known else 'no attribute of a region'}, "
            "expected the one that names the class; --labels-column says which it is"
        )
    class_attribute = given or next(iter(known))
    rows: dict[str, Row] = {}
    for number, one in enumerate(found):  # a row of CSV is a region: those of one file belong together
        row = rows.setdefault(one.image, Row(number, one.image, {}, []))
        for value in _names(one.where, one.attributes.get(class_attribute)):
            row.labels[value] = 1
        for shape, attributes in one.regions:
            for value in _names(one.where, attributes.get(class_attribute)):
                row.labels[value] = 1
                if (corners := _corners(one.where, shape)) and row.boxes is not None:
                    row.boxes.append(Box(value, *corners))
    return Labelled(file, None, list(rows.values()), [], lambda number: found[number].where)


def _names(where: str, value: Any) -> list[str]:
    """A text, or the boxes that are ticked."""
    if isinstance(value, list) or (isinstance(value, dict) and not all(isinstance(on, bool) for on in value.values())):
        raise UserError(
            f"{where}: found the class {json.dumps(value)[:60]}, expected a text, or true and false for each name"
        )
    if isinstance(value, dict):
        return [name for name, ticked in value.items() if ticked]
    return [str(value).strip()] if value is not None and str(value).strip() else []


def _corners(where: str, shape: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """xyxy in px around a shape; None of a point."""
    if "all_points_x" in shape:
        xs, ys = (number_list(where, values := shape.get(f"all_points_{axis}"), len(values or [])) for axis in "xy")
        return (min(xs), min(ys), max(xs), max(ys)) if xs and ys else None
    if "width" in shape:
        x, y, width, height = number_list(where, [shape.get(key) for key in ("x", "y", "width", "height")], 4)
        return x, y, x + width, y + height
    if "r" in shape or "rx" in shape:
        reach = [shape.get("rx", shape.get("r")), shape.get("ry", shape.get("r"))]
        x, y, rx, ry = number_list(where, [shape.get("cx"), shape.get("cy"), *reach], 4)
        return x - rx, y - ry, x + rx, y + ry
    return None
