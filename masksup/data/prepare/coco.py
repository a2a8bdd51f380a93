"""COCO layout: annotations/instances_<split>.json and image folders -> index.

A class is present with at least one annotation, crowds included and whatever its area, which is what
pycocotools' getImgIds(catIds=...) says. Samples are in the order of image ids. An annotation without a box gives its
label all the same.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from masksup.base.words import counted, listed
from masksup.data.index import CROWD
from masksup.data.prepare.assemble import RawSplit, Sample, assemble
from masksup.data.prepare.coco_json import Coco, Id, box_of, read_coco
from masksup.data.prepare.images import inside
from masksup.data.prepare.located import Located, locate
from masksup.data.prepare.options import class_list, existing_file, labels_of, named_splits, require_classes, spellings
from masksup.data.write_index import IndexContent
from masksup.errors import UserError, nearest


def prepare_coco2014(
    root: Path,
    *,
    crowd: Literal["present", "ignore"] = "present",
    empty: Literal["keep", "drop"] = "keep",
    class_order: Literal["id", "alphabetical"] = "id",
    split: list[str] | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """COCO2014: `root` holds annotations/instances_{train,val}2014.json and [images/]{train,val}2014.

    CSRA and MCAR drop images without objects (`empty="drop"`), which raises the scores a little; by default
    they are kept, as false alarms on them count. MCAR orders classes alphabetically, CSRA by id.
    """
    wanted = split or [name for name in ("train", "val") if _instances(root, f"{name}2014").is_file()]
    files = _files(root, wanted or ["train", "val"], suffix="2014")
    return _read(root, "coco2014", files, _Rules(crowd, empty, class_order), skip_broken=skip_broken)


def prepare_coco(
    root: Path,
    *,
    crowd: Literal["present", "ignore"] = "present",
    empty: Literal["keep", "drop"] = "keep",
    class_order: Literal["id", "alphabetical"] = "id",
    classes: str | None = None,
    same_name: Literal["refuse", "merge"] = "refuse",
    same_case: bool = False,
    unlisted: Literal["ignore", "absent"] = "ignore",
    split: list[str] | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Any instances JSON: each annotations/instances_<split>.json, or <split>/_annotations.coco.json as Roboflow writes
    it, or `split` as NAME=JSON[:IMAGEFOLDER].

    Images are in IMAGEFOLDER, or in images/<split>, <split>, images, `root` itself or the folder of the JSON, the first
    that holds them. `classes` (comma list or file) selects and orders; annotations of others are left out. `unlisted`:
    what the categories of an image of LVIS are that nobody looked for.
    """
    prefix = "instances_"
    found = [path.stem.removeprefix(prefix) for path in sorted((root / "annotations").glob(f"{prefix}*.json"))]
    if not found and not split:
        split = [f"{path.parent.name}={path}" for path in sorted(root.glob("*/_annotations.coco.json"))]
    if root.is_dir() and not found and not split:
        raise UserError(
            f"{root / 'annotations'}: found no {prefix}<split>.json, expected one for each split or "
            f"--split NAME=JSON[:IMAGEFOLDER]{_such_as(root)}"
        )
    files = _files(root, split or found, suffix="")
    rules = _Rules(
        crowd,
        empty,
        class_order,
        None if classes is None else class_list(classes, root),
        same_name,
        same_case,
        unlisted,
    )
    return _read(root, "coco", files, rules, skip_broken=skip_broken)


@dataclass(frozen=True)
class _Files:
    """A JSON file and the folders, relative to the root, in which its images may lie: the usual ones, and others."""

    json: Path
    folders: list[str]
    others: tuple[str, ...]

    def located(self, root: Path, names: list[str]) -> Located:
        """Where they are. UserError where there is no usual folder and no other one holds them."""
        existing = [name for name in self.folders if (root / name).is_dir()]
        found = locate(root, [*existing, *self.others], names)
        if found is None and not existing:
            raise UserError(f"{root}: found no folder {' or '.join(self.folders)}, expected the images of {self.json}")
        return found or Located(existing[0])


@dataclass(frozen=True)
class _Rules:
    crowd: str
    empty: str
    class_order: str
    classes: tuple[str, ...] | None = None
    same_name: str = "refuse"
    same_case: bool = False
    unlisted: str = "ignore"


@dataclass(frozen=True)
class _Reading:
    """How the images of a split become samples."""

    located: Located
    known: dict[Id, int]
    """{category: number of its class}"""
    classes: int
    rules: _Rules


def _such_as(root: Path) -> str:
    """An example of the option with the first JSON file that is there."""
    found = sorted([*root.glob("*.json"), *root.glob("*/*.json")])
    return f", such as --split train={found[0].relative_to(root).as_posix()}" if found else ""


def _instances(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}.json"


def _files(root: Path, wanted: list[str], suffix: str) -> dict[str, _Files]:
    """{split: its JSON file and the folders that may hold its images}."""
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected a data set in COCO layout")
    files = {}
    for split, given in named_splits(wanted).items():
        text, _, folder = (given or "").partition(":")
        file = existing_file(text, root) if text else _instances(root, split + suffix)
        if not file.is_file():
            raise UserError(f"{file}: no such file, expected the instances of split '{split}'")
        usual = [f"images/{split}{suffix}", f"{split}{suffix}", "images"]
        root_itself = folder and Path(folder) == Path()
        folders = ["."] if root_itself else [inside(folder, "--split")] if folder else usual
        beside = file.absolute().parent
        others = [beside.relative_to(root.absolute()).as_posix()] if beside.is_relative_to(root.absolute()) else []
        files[split] = _Files(file, folders, () if folder else (".", *others))
    return files


def _read(
    root: Path, name: str, files: dict[str, _Files], rules: _Rules, *, skip_broken: bool
) -> list[IndexContent]:  # fmt: skip
    loaded = {split: read_coco(of.json, skip_broken=skip_broken) for split, of in files.items()}
    categories: dict[Id, str] = {}
    for coco in loaded.values():
        for category_id, category in coco.categories.items():
            if categories.setdefault(category_id, category) != category:
                raise UserError(
                    f"{coco.file}: found '{category}' as category {category_id}, "
                    f"expected '{categories[category_id]}' as in the other splits"
                )
    first = next(iter(files.values())).json
    parents = set.intersection(*(coco.empty_parents() for coco in loaded.values())) if rules.classes is None else set()
    shown = [categories.pop(key) for key in sorted(parents, key=str)]
    ordered = (categories[key] for key in sorted(categories, key=lambda key: (isinstance(key, str), key)))
    called, told = spellings([*(rules.classes or ()), *ordered], rules.same_case)
    categories = {key: called.get(category, category) for key, category in categories.items()}
    classes = _classes(categories, rules, first)
    number = {name: c for c, name in enumerate(classes)}
    known = {category_id: number[name] for category_id, name in categories.items() if name in number}
    splits = []
    for split, coco in loaded.items():
        names = [str(image["file_name"]) for image in coco.images.values()]
        located = files[split].located(root, names)
        splits.append(_split(split, coco, _Reading(located, known, len(classes), rules)))
        if located.dropped:
            given = next(name for name in names if located.name(name) != name)
            splits[-1].warnings.append(f"the images are named by absolute paths: {given} is {located.name(given)} here")
        coco.images, coco.annotations = {}, {}  # the largest part of memory
    splits[0].warnings += told
    if shown:
        splits[0].warnings.append(
            f"left out {counted(len(shown), 'class')} without annotations that others name as their kind: "
            f"{listed(shown)}; --classes keeps what it names"
        )
    return assemble(root, name, splits, classes, skip_broken=skip_broken)


def _classes(categories: dict[Id, str], rules: _Rules, file: Path) -> tuple[str, ...]:
    ids = sorted(categories, key=lambda key: (isinstance(key, str), key))
    names = [categories[key] for key in ids]
    shared = sorted(name for name, times in Counter(names).items() if times > 1)
    if shared and rules.same_name != "merge" and not rules.same_case:
        of = " and ".join(str(key) for key in ids if categories[key] == shared[0])
        raise UserError(
            f"{file}: found the class '{shared[0]}' twice (categories {of}), expected each once; "
            "--same-name merge makes them one"
        )
    for wanted in rules.classes or ():
        if wanted not in names:
            raise UserError(f"--classes: {file} has no class '{wanted}'; {nearest(wanted, names)}")
    names = list(dict.fromkeys(names))
    ordered = names if rules.class_order == "id" else sorted(names)
    return rules.classes or require_classes(tuple(ordered), str(file))


def _split(split: str, coco: Coco, reading: _Reading) -> RawSplit:
    known, rules = reading.known, reading.rules
    raw = RawSplit(split, [], str(coco.file), coco.warnings())
    federated = coco.federated and rules.unlisted == "ignore"
    if federated:
        raw.warnings.append(
            "categories that nobody looked for in an image (neg_category_ids) are ignored there; --unlisted absent "
            "takes them as absent"
        )
    dropped, others, boxless = 0, 0, 0
    for image_id in sorted(coco.images, key=lambda key: (isinstance(key, str), key)):
        every = coco.annotations.get(image_id, [])
        annotations = [one for one in every if one["category_id"] in known]
        others += len(every) - len(annotations)
        if not annotations and rules.empty == "drop":
            dropped += 1
            continue
        where = f"{coco.file}: image {image_id}"
        absent_C = None
        if federated:
            absent_C = np.zeros(reading.classes, bool)
            absent_C[[known[key] for key in coco.looked_for(image_id) if key in known]] = True
        sample = _sample(reading, coco.images[image_id], annotations, where, absent_C)
        boxless += len(annotations) - len(sample.box_class_K)
        raw.samples.append(sample)
    if others:
        raw.warnings.append(f"left out {counted(others, 'annotation')} of other classes (--classes)")
    if boxless:
        raw.warnings.append(f"{counted(boxless, 'annotation')} without a box or a shape: labels of the whole image")
    if dropped:
        raw.warnings.append(f"left out {counted(dropped, 'image')} without objects (--empty drop)")
    return raw


def _sample(
    reading: _Reading, image: dict[str, Any], annotations: list[dict[str, Any]], where: str,
    absent_C: NDArray[np.bool_] | None,
) -> Sample:  # fmt: skip
    name = inside(reading.located.name(image["file_name"]), where)
    class_K = np.array([reading.known[one["category_id"]] for one in annotations], np.int16)
    crowd_K = np.array([bool(one.get("iscrowd", 0)) for one in annotations], bool)
    labels_C = labels_of(reading.classes, class_K, crowd_K, reading.rules.crowd)
    if absent_C is not None:
        labels_C[(labels_C == 0) & ~absent_C] = -1
    boxes = [box_of(where, one) for one in annotations]
    boxed_K = np.array([box is not None for box in boxes], bool)
    size = (image.get("width"), image.get("height"))
    return Sample(
        id=name.rsplit(".", 1)[0],
        image=inside(f"{reading.located.folder}/{name}", where),
        labels_C=labels_C,
        where=where,
        boxes_K4=_xyxy([box for box in boxes if box is not None]),
        box_class_K=class_K[boxed_K],
        box_flags_K=np.where(crowd_K[boxed_K], CROWD, 0).astype(np.uint8),
        claimed_size=(size[0], size[1]) if isinstance(size[0], int) and isinstance(size[1], int) else None,
    )


def _xyxy(boxes: list[list[float]]) -> NDArray[np.float32]:
    xywh_K4 = np.array(boxes, np.float64).reshape(-1, 4)
    xywh_K4[:, 2:] += xywh_K4[:, :2]
    return xywh_K4.astype(np.float32)
