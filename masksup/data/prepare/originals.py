"""The JSON lists that the released CSRA and MSL code reads, from a prepared data set.

Each item is {"target": [...], "img_path": path} (WIDER: "bbox" as well) in their order and with their label
rules: training lists turn ignored into 0; VOC2007 test says -1 absent, 0 ignored, 1 present; WIDER test says 99
for ignored. Their COCO lists leave out images without objects.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import as_json, write_atomically
from masksup.data.prepare.wider import wider_files, wider_persons
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

# (data set, split) -> file; {our label: theirs}
_LISTS: dict[tuple[str, str], tuple[str, dict[int, int]]] = {
    ("voc2007", "trainval"): ("voc07/trainval_voc07.json", {1: 1, 0: 0, -1: 0}),
    ("voc2007", "test"): ("voc07/test_voc07.json", {1: 1, 0: -1, -1: 0}),
    ("coco2014", "train"): ("coco/train_coco2014.json", {1: 1, 0: 0}),
    ("coco2014", "val"): ("coco/val_coco2014.json", {1: 1, 0: 0}),
    ("wider", "trainval"): ("wider/trainval_wider.json", {1: 1, 0: 0, -1: 0}),
    ("wider", "test"): ("wider/test_wider.json", {1: 1, 0: 0, -1: 99}),
}
# Options under which our labels would no longer be theirs.
_REQUIRED = {"difficult": "ignore", "crowd": "present", "class_order": "id"}


def refuse_other_rules(dataset: str, options: Mapping[str, Any]) -> None:
    """UserError where the originals have no list for `dataset` or the options change labels or order."""
    known = sorted({name for name, _ in _LISTS})
    if dataset not in known:
        raise UserError(f"--write-originals: found data set '{dataset}', expected one of {', '.join(known)}")
    for key, value in _REQUIRED.items():
        if options.get(key, value) != value:
            raise UserError(
                f"--write-originals: found --{key.replace('_', '-')} {options[key]}, expected {value}, which the "
                "originals use"
            )


def write_originals(contents: list[IndexContent], root: Path, split: list[str] | None, folder: Path) -> list[Path]:
    """Write a list for each split that the originals have one for; paths start with `root` as it was given."""
    written = []
    for content in contents:
        key = (content.name, content.split)
        if key not in _LISTS:
            continue
        name, rule = _LISTS[key]
        written.append(folder / name)
        _replace(folder / name, _items(content, rule, root, split))
    if not written:
        splits = ", ".join(name for dataset, name in _LISTS if dataset == contents[0].name)
        raise UserError(f"--write-originals: found none of the splits {splits}, expected at least one")
    return written


def _items(content: IndexContent, rule: dict[int, int], root: Path, split: list[str] | None) -> list[dict[str, Any]]:
    boxes: dict[str, list[float]] = {}
    if content.name == "wider":
        persons = wider_persons(wider_files(root, split)[content.split])
        boxes = {person_id: target["bbox"] for person_id, _, target, _ in persons}
    start = os.path.relpath(content.root, root.absolute())
    items = []
    for sample, labels_C in enumerate(content.labels_NC):
        if content.name == "coco2014" and not labels_C.any():
            continue
        image = content.image_names[int(content.sample_image_N[sample])]
        item = {"target": _target(labels_C, rule), "img_path": os.path.normpath(f"{root}/{start}/{image}")}
        if boxes:
            item["bbox"] = boxes[content.ids[sample]]
        items.append(item)
    return items


def _target(labels_C: NDArray[np.int8], rule: dict[int, int]) -> list[int]:
    return [rule[label] for label in labels_C.tolist()]


def _replace(file: Path, items: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, as_json(items))
