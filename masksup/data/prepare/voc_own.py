"""VOC's XML of data sets of one's own: in VOC layout, or, as labelImg and Roboflow write it, beside the images."""

from pathlib import Path
from typing import Literal

import numpy as np

from masksup.data.index import DIFFICULT
from masksup.data.prepare.beside import files_of_splits, image_of, labelled
from masksup.data.prepare.options import class_list, labels_of
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Box, Row
from masksup.data.prepare.voc import DataSet, read_voc, voc_folder
from masksup.data.prepare.voc_xml import Annotation, read_annotation
from masksup.data.write_index import IndexContent


def prepare_voc(
    root: Path, *, classes: str | None = None, difficult: Literal["ignore", "present", "absent"] = "ignore",
    same_case: bool = False, split: list[str] | None = None, skip_broken: bool = False,
) -> list[IndexContent]:  # fmt: skip
    """Any data set in VOC layout, or XML files beside their images where no folder ImageSets lists them.

    `classes`: comma list or file, in that order; default: those found, sorted. Without lists, the folders train, val,
    test and the like of `root` are the splits, or all is train.
    """
    listed = any(path.is_dir() for path in (root / "ImageSets", *root.glob("*/ImageSets"), *root.glob("*/*/ImageSets")))
    if listed or any(name.endswith(".txt") for name in split or ()) or not any(root.rglob("*.xml")):
        of = DataSet("voc", None if classes is None else class_list(classes, root))
        folder = voc_folder(root, None)
        return read_voc(folder, of, difficult=difficult, same_case=same_case, split=split, skip_broken=skip_broken)
    find, tables = FindImages(root), {}
    for name, files in files_of_splits(root, ".xml", split).items():
        rows = [_row(number, read_annotation(file), find, difficult) for number, file in enumerate(files)]
        tables[name] = labelled(files, rows, find)
    rules = ClassRules(classes, same_case=same_case)
    return contents_of("voc", tables, find, root, rules, skip_broken=skip_broken)


def _row(number: int, annotation: Annotation, find: FindImages, difficult: str) -> Row:
    names = sorted({*annotation.names})
    class_K = np.array([names.index(name) for name in annotation.names], np.int16)
    labels_C = labels_of(len(names), class_K, (annotation.flags_K & DIFFICULT).astype(bool), difficult)
    boxes = zip(annotation.names, annotation.boxes_K4.tolist(), annotation.flags_K.tolist())
    return Row(
        number,
        image_of(annotation.file, annotation.image, find),
        dict(zip(names, labels_C.tolist())),
        [Box(name, x0, y0, x1, y1, flags) for name, (x0, y0, x1, y1), flags in boxes],
        annotation.size,
    )
