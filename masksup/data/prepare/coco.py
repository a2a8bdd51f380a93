"""COCO layout: annotations/instances_<split>.json and image folders -> index, read with pycocotools.

A class is present with at least one annotation, crowds included and whatever its area, which is what
pycocotools' getImgIds(catIds=...) says. Samples are in the order of image ids.
"""

import contextlib
import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from masksup.base.words import counted
from masksup.data.index import CROWD
from masksup.data.prepare.assemble import RawSplit, Sample, assemble
from masksup.data.prepare.images import inside
from masksup.data.prepare.json_file import number_list, read_json, records
from masksup.data.prepare.options import existing_file, labels_of, named_splits, require_classes
from masksup.data.write_index import IndexContent
from masksup.errors import UserError


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
    return _read(root, "coco2014", files, crowd=crowd, empty=empty, class_order=class_order, skip_broken=skip_broken)


def prepare_coco(
    root: Path,
    *,
    crowd: Literal["present", "ignore"] = "present",
    empty: Literal["keep", "drop"] = "keep",
    class_order: Literal["id", "alphabetical"] = "id",
    split: list[str] | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Any instances JSON: each annotations/instances_<split>.json, or `split` as NAME=JSON[:IMAGEFOLDER].

    Images are in IMAGEFOLDER, images/<split>, <split> or images below `root`, the first that exists.
    """
    prefix = "instances_"
    found = [path.stem.removeprefix(prefix) for path in sorted((root / "annotations").glob(f"{prefix}*.json"))]
    if root.is_dir() and not found and not split:
        raise UserError(
            f"{root / 'annotations'}: found no {prefix}<split>.json, expected one for each split or "
            "--split NAME=JSON[:IMAGEFOLDER]"
        )
    files = _files(root, split or found, suffix="")
    return _read(root, "coco", files, crowd=crowd, empty=empty, class_order=class_order, skip_broken=skip_broken)


def _instances(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}.json"


def _files(root: Path, wanted: list[str], suffix: str) -> dict[str, tuple[Path, str]]:
    """{split: (JSON file, image folder relative to root)}."""
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
        existing = [name for name in folders if (root / name).is_dir()]
        if not existing:
            raise UserError(f"{root}: found no folder {' or '.join(folders)}, expected the images of '{split}'")
        files[split] = file, existing[0]
    return files


def _read(
    root: Path,
    name: str,
    files: dict[str, tuple[Path, str]],
    *,
    crowd: str,
    empty: str,
    class_order: str,
    skip_broken: bool,
) -> list[IndexContent]:
    loaded = {split: _load(file) for split, (file, _) in files.items()}
    categories: dict[int, str] = {}
    for split, coco in loaded.items():
        for category_id, category in coco.cats.items():
            if categories.setdefault(category_id, category["name"]) != category["name"]:
                raise UserError(
                    f"{files[split][0]}: found '{category['name']}' as category {category_id}, "
                    f"expected '{categories[category_id]}' as in the other splits"
                )
    ids = sorted(categories, key=lambda key: key if class_order == "id" else categories[key])
    classes = require_classes(tuple(categories[key] for key in ids), str(next(iter(files.values()))[0]))
    known = {category_id: number for number, category_id in enumerate(ids)}
    splits = [_split(split, *files[split], coco, known, crowd, empty) for split, coco in loaded.items()]
    return assemble(root, name, splits, classes, skip_broken=skip_broken)


def _load(file: Path) -> Any:
    from pycocotools.coco import COCO

    content = read_json(file)
    _check(file, content)
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _check(file: Path, content: Any) -> None:
    """pycocotools takes records on trust: a repeated image id, say, silently hides the first image."""
    images = records(file, content, "images", {"id": int, "file_name": str})
    categories = records(file, content, "categories", {"id": int, "name": str})
    annotations = records(file, content, "annotations", {"image_id": int, "category_id": int})
    for key, items in (("images", images), ("categories", categories)):
        seen: dict[int, int] = {}
        for number, item in enumerate(items):
            if item["id"] in seen:
                raise UserError(
                    f"{file}: {key}[{number}]: found id {item['id']} again (first in {key}[{seen[item['id']]}]), "
                    "expected each once"
                )
            seen[item["id"]] = number
    image_ids = {image["id"] for image in images}
    category_ids = {category["id"] for category in categories}
    for number, annotation in enumerate(annotations):
        where = f"{file}: annotations[{number}]"
        if annotation["image_id"] not in image_ids:
            raise UserError(f"{where}: found image_id {annotation['image_id']}, expected an id of 'images'")
        if annotation["category_id"] not in category_ids:
            raise UserError(
                f"{where}: found the unknown class {annotation['category_id']} (category_id), expected one of the "
                f"{len(category_ids)} ids of 'categories'"
            )
        number_list(f"{where}: bbox", annotation.get("bbox"), 4)
        if type(annotation.setdefault("id", -1 - number)) is not int:  # pycocotools wants one; nothing here uses it
            raise UserError(f"{where}: found 'id' = {json.dumps(annotation['id'])[:60]}, expected int")
        crowd = annotation.get("iscrowd", 0)
        if not isinstance(crowd, int) or crowd not in (0, 1):
            raise UserError(f"{where}: found 'iscrowd' = {json.dumps(crowd)[:60]}, expected 0, 1, false or true")


def _split(split: str, file: Path, folder: str, coco: Any, known: dict[int, int], crowd: str, empty: str) -> RawSplit:
    raw = RawSplit(split, [], str(file))
    dropped = 0
    for image_id in sorted(coco.imgs):
        image, annotations = coco.imgs[image_id], coco.imgToAnns.get(image_id, [])
        if not annotations and empty == "drop":
            dropped += 1
            continue
        raw.samples.append(_sample(image, annotations, f"{file}: image {image_id}", folder, known, crowd))
    if dropped:
        raw.warnings.append(f"left out {counted(dropped, 'image')} without objects (--empty drop)")
    return raw


def _sample(
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    where: str,
    folder: str,
    known: dict[int, int],
    crowd: str,
) -> Sample:
    name = inside(image["file_name"], where)
    box_class_K = np.array([known[one["category_id"]] for one in annotations], np.int16)
    crowd_K = np.array([bool(one.get("iscrowd", 0)) for one in annotations], bool)
    size = (image.get("width"), image.get("height"))
    return Sample(
        id=name.rsplit(".", 1)[0],
        image=inside(f"{folder}/{name}", where),
        labels_C=labels_of(len(known), box_class_K, crowd_K, crowd),
        where=where,
        boxes_K4=_xyxy(annotations),
        box_class_K=box_class_K,
        box_flags_K=np.where(crowd_K, CROWD, 0).astype(np.uint8),
        claimed_size=(size[0], size[1]) if isinstance(size[0], int) and isinstance(size[1], int) else None,
    )


def _xyxy(annotations: list[dict[str, Any]]) -> NDArray[np.float32]:
    xywh_K4 = np.array([one["bbox"] for one in annotations], np.float64).reshape(-1, 4)
    xywh_K4[:, 2:] += xywh_K4[:, :2]
    return xywh_K4.astype(np.float32)
