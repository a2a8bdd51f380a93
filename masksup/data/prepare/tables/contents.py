"""Rows of images and labels -> indexes: the end that all readers of labels share."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masksup.base.words import counted
from masksup.data.prepare.assemble import RawSplit, Sample, assemble
from masksup.data.prepare.images import inside
from masksup.data.prepare.tables.classes import ClassRules, settle_classes
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.joined import joining
from masksup.data.prepare.tables.labelled import Labelled, Row
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_TYPED = ("cvat", "labelme", "via", "voc")  # of labels that a person wrote, each for one object
_LONG = "; of a table of one row a label, `prepare long` joins the rows"


def images_folder(root: Path, images: str | None) -> Path:
    """The folder of the images: `root` or its folder `images`. UserError if it is missing or outside."""
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected the folder of the images")
    folder = root if images is None or Path(images) == Path() else root / inside(images, "--images")
    if not folder.is_dir():
        raise UserError(f"--images {images}: found no folder '{folder}', expected the folder of the images")
    return folder


def contents_of(
    kind: str, tables: dict[str, Labelled], find: FindImages, root: Path, rules: ClassRules, *, skip_broken: bool,
    first_decides: bool = False,
) -> list[IndexContent]:  # fmt: skip
    """One index a table. EXIF orientation is applied; where rows state a size, as the sizes say.

    UserErrors as of `settle_classes` and `assemble`.
    """
    classes = settle_classes(list(tables.values()), rules, root, first_decides)
    if kind in _TYPED and not rules.classes and (found := joining(dict.fromkeys(classes, 1), skipped=" ")):
        next(iter(tables.values())).warnings.append(
            f"the label '{found[1]}' seems to join classes by '{found[0]}', and becomes one class; give each its own "
            "shape or tag instead"
        )
    splits = [_split(name, table, classes, find) for name, table in tables.items()]
    sized = any(row.size for table in tables.values() for row in table.rows)
    return assemble(find.folder, kind, splits, classes, skip_broken=skip_broken, exif=None if sized else True)


def _boxes(row: Row, number: dict[str, int]) -> tuple[NDArray[np.float32], NDArray[np.int16], NDArray[np.uint8]]:
    """xyxy_K4 in px, class_K, flags_K of the classes that there are."""
    boxes = [box for box in row.boxes or () if box.label in number]
    xyxy_K4 = np.array([box[1:5] for box in boxes], np.float32).reshape(-1, 4)
    class_K = np.array([number[box.label] for box in boxes], np.int16)
    return xyxy_K4, class_K, np.array([box.flags for box in boxes], np.uint8)


def _split(name: str, table: Labelled, classes: tuple[str, ...], find: FindImages) -> RawSplit:
    number = {class_name: c for c, class_name in enumerate(classes)}
    raw = RawSplit(name, [], str(table.file), table.warnings)
    if table.rows:
        find.require_found(table.rows[0].image, table.where(table.rows[0]))
    seen: dict[str, Row] = {}
    repeated = 0
    for row in table.rows:
        where = table.where(row)
        path = find.find(row.image, where)
        if path in seen and seen[path].labels == row.labels:
            repeated += 1  # whoever joined two tables has such rows
            continue
        if path in seen:
            raise UserError(
                f"{where}: found a second sample with the id '{path}' (the first: {table.where(seen[path])}) and other "
                f"labels, expected each image once{_LONG if table.columns is None else ''}"
            )
        seen[path] = row
        labels_C = np.full(len(classes), table.unlisted, np.int8)
        for label, value in row.labels.items():
            labels_C[number[label]] = value
        raw.samples.append(Sample(path, path, labels_C, where, *_boxes(row, number), claimed_size=row.size))
    if repeated:
        raw.warnings.append(f"left out {counted(repeated, 'row')} that repeat another one")
    find.require_stripped()
    raw.warnings += find.warnings()
    return raw
