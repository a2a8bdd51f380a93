"""VOC layout: JPEGImages, Annotations (XML), ImageSets/{Main,Segmentation} -> index.

Labels come from the XML files: present with one object that is not "difficult"; a class with difficult objects
alone is ignored by default, as in the official evaluation and lists (1 / 0 / -1 there is 1 / -1 / 0 here).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from masksup.base.words import counted
from masksup.data.index import DIFFICULT
from masksup.data.prepare.assemble import RawSplit, Sample, assemble
from masksup.data.prepare.images import inside
from masksup.data.prepare.options import (
    existing_file,
    labels_of,
    named_splits,
    read_text,
    require_classes,
    spellings,
)  # fmt: skip
from masksup.data.prepare.tables.words import looks_like_image
from masksup.data.prepare.voc_xml import Annotation, read_annotation
from masksup.data.write_index import IndexContent
from masksup.errors import UserError, nearest

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_DEFAULT_SPLITS = ("train", "val", "trainval", "test")
_LISTS = ("Main", "Segmentation")


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set in VOC layout before it is read."""

    name: str
    classes: tuple[str, ...] | None
    """None: those found, sorted."""
    unlabelled: str | None = None
    """The split that may lack XML files, and then has no labels; anywhere else that is a UserError."""
    note: str = ""


def prepare_voc2007(
    root: Path, *, difficult: Literal["ignore", "present", "absent"] = "ignore",
    split: list[str] | None = None, skip_broken: bool = False,
) -> list[IndexContent]:  # fmt: skip
    """VOC2007: `root` is the folder of VOCdevkit, VOCdevkit itself, or VOC2007 in it."""
    folder = voc_folder(root, "VOC2007")
    of = DataSet("voc2007", VOC_CLASSES)
    return read_voc(folder, of, difficult=difficult, split=split, skip_broken=skip_broken)


def prepare_voc2012(
    root: Path, *, difficult: Literal["ignore", "present", "absent"] = "ignore",
    split: list[str] | None = None, skip_broken: bool = False,
) -> list[IndexContent]:  # fmt: skip
    """VOC2012, as VOC2007. The labels of its test split are not public: without XML files they are all ignored."""
    folder = voc_folder(root, "VOC2012")
    of = DataSet("voc2012", VOC_CLASSES, unlabelled="test")
    return read_voc(folder, of, difficult=difficult, split=split, skip_broken=skip_broken)


def voc_folder(root: Path, year: str | None) -> Path:
    """The folder that holds ImageSets and Annotations: `root`, or VOCdevkit/<year> below it."""
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected a data set in VOC layout")
    below = [year] if year else sorted(path.parent.name for path in root.glob("*/JPEGImages"))
    devkit = root / "VOCdevkit"
    years = [year] if year else sorted(path.parent.name for path in devkit.glob("*/JPEGImages"))
    candidates = [root, *(root / name for name in below), *(devkit / name for name in years)]
    found = [path for path in candidates if (path / "JPEGImages").is_dir()]
    if not found:
        raise UserError(f"--root {root}: found no folder JPEGImages, expected VOCdevkit/{year or 'NAME'}/JPEGImages")
    if len(found) > 1 and year is None and found[0] != root:
        raise UserError(f"--root {root}: found {', '.join(map(str, found))}, expected one of them as --root")
    return found[0]


def read_voc(
    folder: Path, of: DataSet, *, difficult: str = "ignore", same_case: bool = False, split: list[str] | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:  # fmt: skip
    """Index content of each wanted split of the VOC folder `folder`."""
    classes = of.classes
    lists = _id_lists(folder, named_splits(split or []))
    images = _Images(folder)
    ids = {split_name: _read_ids(file, images) for split_name, file in lists.items()}
    annotations = _annotations(folder, ids, of.unlabelled)
    found = {thing for notes in annotations.values() if notes for thing in notes.names}
    called, told = spellings([*(classes or ()), *sorted(found)], same_case)
    for image_id, notes in annotations.items() if called else ():
        if notes:
            names = tuple(called.get(thing, thing) for thing in notes.names)
            annotations[image_id] = replace(notes, names=names)
    if classes is None:
        found = {called.get(thing, thing) for thing in found}
        classes = require_classes(tuple(sorted(found)), str(folder / "Annotations"))
    known = {class_name: number for number, class_name in enumerate(classes)}
    splits = []
    for split_name, numbered in ids.items():
        raw = RawSplit(split_name, [], str(lists[split_name]))
        for image_id, line in numbered.items():
            where = f"{lists[split_name]}, line {line}"
            raw.samples.append(_sample(image_id, images.find(image_id), annotations[image_id], known, difficult, where))
        raw.warnings.extend(_without_labels(folder, [name for name in numbered if annotations[name] is None]))
        raw.warnings.extend(_list_disagreements(folder, raw, annotations, classes))
        splits.append(raw)
    splits[0].warnings += told
    return assemble(folder, of.name, splits, classes, skip_broken=skip_broken, note=of.note)


def _id_lists(folder: Path, wanted: dict[str, str | None]) -> dict[str, Path]:
    sets = folder / "ImageSets"
    if not wanted:
        found = {name: sets / "Main" / f"{name}.txt" for name in _DEFAULT_SPLITS}
        found = {name: file for name, file in found.items() if file.is_file()}
        if not found:
            raise UserError(
                f"{sets / 'Main'}: found none of {', '.join(_DEFAULT_SPLITS)} (.txt), expected id lists there "
                "or --split NAME=FILE"
            )
        return found
    lists = {}
    for name, file in wanted.items():
        if file is not None:
            lists[name] = existing_file(file, sets, folder)
            continue
        candidates = [sets / kind / f"{name}.txt" for kind in _LISTS]
        lists[name] = next((path for path in candidates if path.is_file()), candidates[0])
    return lists


def _read_ids(file: Path, images: "_Images") -> dict[str, int]:
    """{id: line}. A line is an id, alone or before other columns, with the ending of its image or without, or a path
    `/JPEGImages/ID.jpg ...`."""
    ids: dict[str, int] = {}
    for line, text in enumerate(read_text(file).splitlines(), 1):
        if not text.strip():
            continue
        image_id = images.id_of(text.split()[0].replace("\\", "/"))
        inside(image_id, f"{file}, line {line}")
        inside(f"{image_id}.xml", f"{file}, line {line}")  # with its suffix it must still be a possible name
        if image_id in ids:
            raise UserError(
                f"{file}, line {line}: found the id '{image_id}' again (first on line {ids[image_id]}), "
                "expected each once"
            )
        ids[image_id] = line
    if not ids:
        raise UserError(f"{file}: found an empty id list, expected one image id a line")
    return ids


class _Images:
    """Image files by id. `JPEGImages` is listed once: own data sets hold .png or .JPG as well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_stem: dict[str, list[str]] = {}
        for path in sorted((folder / "JPEGImages").iterdir()):
            self.by_stem.setdefault(path.stem, []).append(path.name)

    def id_of(self, text: str) -> str:
        """The id that a list means by an id, by the name of an image, or by a path to it."""
        head, slash, tail = text.rpartition("JPEGImages/")
        if slash and (not head or head.endswith("/")):
            return tail.rsplit(".", 1)[0]
        stem, _, ending = text.rpartition(".")
        usual = looks_like_image(text) or ending == "xml"  # a list of another copy may say .jpg where there are .png
        return stem if text not in self.by_stem and stem in self.by_stem and usual else text

    def find(self, image_id: str) -> str:
        names = self.by_stem.get(image_id, [f"{image_id}.jpg"])
        if len(names) > 1:
            raise UserError(
                f"{self.folder / 'JPEGImages'}: found {' and '.join(names)}, expected one image for id '{image_id}'"
            )
        return inside(f"JPEGImages/{names[0]}", str(self.folder))


def _annotations(folder: Path, ids: dict[str, dict[str, int]], unlabelled: str | None) -> dict[str, Annotation | None]:
    """One annotation for each id of any split; None for all of the split `unlabelled` if some have no XML file.

    The public VOC2012 has XML files for those of its test images that other tasks use, with persons alone: read as
    labels they would say that nothing else is there.
    """
    if not (folder / "Annotations").is_dir() and set(ids) != {unlabelled}:
        raise UserError(f"{folder / 'Annotations'}: no such folder, expected the XML files of the listed ids")
    annotations: dict[str, Annotation | None] = {}
    # Last, so that an image of a labelled split keeps its labels there.
    for split_name, numbered in sorted(ids.items(), key=lambda item: item[0] == unlabelled):
        files = {image_id: folder / "Annotations" / f"{image_id}.xml" for image_id in numbered}
        missing = [file for file in files.values() if not file.is_file()]
        if missing and split_name != unlabelled:
            raise UserError(f"{missing[0]}: no such file, expected the annotation of an id that is listed")
        for image_id, file in files.items():
            if image_id not in annotations:
                annotations[image_id] = None if missing else read_annotation(file)
    return annotations


def _sample(
    image_id: str, image: str, annotation: Annotation | None, known: dict[str, int], difficult: str, where: str
) -> Sample:
    if annotation is None:
        return Sample(image_id, image, np.full(len(known), -1, np.int8), where)
    unknown = [name for name in annotation.names if name not in known]
    if unknown:
        raise UserError(f"{annotation.file}: found the unknown class '{unknown[0]}'; {nearest(unknown[0], known)}")
    box_class_K = np.array([known[name] for name in annotation.names], np.int16)
    weak_K = (annotation.flags_K & DIFFICULT).astype(bool)
    return Sample(
        image_id, image, labels_of(len(known), box_class_K, weak_K, difficult), str(annotation.file),
        annotation.boxes_K4, box_class_K, annotation.flags_K, claimed_size=annotation.size,
    )  # fmt: skip


def _without_labels(folder: Path, image_ids: list[str]) -> Iterator[str]:
    if not image_ids:
        return
    unused = sum((folder / "Annotations" / f"{image_id}.xml").is_file() for image_id in image_ids)
    yield f"{counted(len(image_ids) - unused, 'image')} without an XML file: all labels there are ignored"
    if unused:
        yield f"{unused} more have one, which is not used: the other tasks of VOC2012 have them without the classes"


def _list_disagreements(
    folder: Path, raw: RawSplit, annotations: dict[str, Annotation | None], classes: tuple[str, ...]
) -> Iterator[str]:
    """Compares the XML labels with ImageSets/Main/<class>_<split>.txt, where those exist."""
    rows = {sample.id: row for row, sample in enumerate(raw.samples) if annotations[sample.id] is not None}
    known = {name: number for number, name in enumerate(classes)}
    stated_NC = np.full((len(raw.samples), len(classes)), 9, np.int8)
    for class_name, column in known.items():
        file = folder / "ImageSets" / "Main" / f"{class_name}_{raw.name}.txt"
        if not rows or not file.is_file() or Path(raw.source).parent.name != "Main":
            continue
        for line, text in enumerate(read_text(file).splitlines(), 1):
            fields = text.split()
            if not fields:
                continue
            if len(fields) != 2 or fields[1] not in ("1", "0", "-1"):
                raise UserError(f"{file}, line {line}: found '{text.strip()}', expected an id and 1, 0 or -1")
            if fields[0] in rows:
                stated_NC[rows[fields[0]], column] = {"1": 1, "0": -1, "-1": 0}[fields[1]]
    compared_NC = stated_NC != 9
    if not compared_NC.any():
        return
    official_NC = np.zeros_like(stated_NC)
    for image_id, row in rows.items():
        annotation = annotations[image_id]
        assert annotation is not None
        box_class_K = np.array([known[name] for name in annotation.names], np.int16)
        weak_K = (annotation.flags_K & DIFFICULT).astype(bool)
        official_NC[row] = labels_of(len(classes), box_class_K, weak_K, "ignore")
    differing = int((compared_NC & (stated_NC != official_NC)).sum())
    if differing:
        yield (
            f"the XML files and the per-class lists <class>_{raw.name}.txt differ in {differing} of "
            f"{counted(int(compared_NC.sum()), 'label')}; the XML files are used"
        )
