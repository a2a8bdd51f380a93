"""WIDER-Attribute: Annotations/wider_attribute_<split>.json and Image/ -> index with one sample a person.

An attribute is 1 present, -1 absent or 0 unspecified; here 1, 0 and -1 (ignored). The crop is the person's box
as annotated, even where it reaches outside the image (decoding pads with zeros there, as the originals do).
"""

from pathlib import Path
from typing import Any

import numpy as np

from masksup.data.prepare.assemble import RawSplit, Sample, assemble
from masksup.data.prepare.images import inside
from masksup.data.prepare.json_file import number_list, read_json, records
from masksup.data.prepare.options import existing_file, named_splits
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

WIDER_CLASSES = (
    "Male", "longHair", "sunglass", "Hat", "Tshirt", "longSleeve", "formal", "shorts", "jeans", "longPants",
    "skirt", "faceMask", "logo", "stripe",
)  # fmt: skip
_LABEL = {1: 1, -1: 0, 0: -1}
_DEFAULT_SPLITS = ("trainval", "test")


def prepare_wider(root: Path, *, split: list[str] | None = None, skip_broken: bool = False) -> list[IndexContent]:
    """WIDER-Attribute below `root`: splits trainval and test, or `split` as NAME or NAME=JSON."""
    splits = []
    for name, file in wider_files(root, split).items():
        raw = RawSplit(name, [], str(file))
        for person_id, image, target, where in wider_persons(file):
            raw.samples.append(_sample(person_id, image, target, where))
        splits.append(raw)
    return assemble(root, "wider", splits, WIDER_CLASSES, skip_broken=skip_broken)


def wider_files(root: Path, split: list[str] | None) -> dict[str, Path]:
    """{split: its JSON file}. UserError if the folder or a file is missing."""
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected WIDER-Attribute (Annotations and Image)")
    present = [name for name in _DEFAULT_SPLITS if _usual_file(root, name).is_file()]
    files = {}
    for name, given in named_splits(split or present or list(_DEFAULT_SPLITS)).items():
        files[name] = existing_file(given, root) if given else _usual_file(root, name)
        if not files[name].is_file():
            raise UserError(f"{files[name]}: no such file, expected the annotations of split '{name}'")
    return files


def wider_persons(file: Path) -> list[tuple[str, str, dict[str, Any], str]]:
    """(id, image path, target, place for errors) of each person in the order of the file.

    The id is the image's path without its suffix, '#' and the person's number in that image.
    """
    content = read_json(file)
    persons = []
    for number, image in enumerate(records(file, content, "images", {"file_name": str, "targets": list})):
        name = inside(image["file_name"], f"{file}: images[{number}]")
        for k, target in enumerate(image["targets"]):
            where = f"{file}: images[{number}].targets[{k}]"
            if not isinstance(target, dict):
                raise UserError(f"{where}: found {target!r}, expected an object with bbox and attribute")
            persons.append((f"{name.rsplit('.', 1)[0]}#{k}", f"Image/{name}", target, where))
    return persons


def _usual_file(root: Path, split: str) -> Path:
    return root / "Annotations" / f"wider_attribute_{split}.json"


def _sample(person_id: str, image: str, target: dict[str, Any], where: str) -> Sample:
    x, y, width, height = number_list(f"{where}.bbox", target.get("bbox"), 4)
    crop = (x, y, x + width, y + height)
    # The crop is taken at rounded coordinates, so this is what would be an empty picture.
    if round(crop[2]) <= round(crop[0]) or round(crop[3]) <= round(crop[1]):
        raise UserError(f"{where}.bbox: found a person of {width} x {height} px, expected an area")
    attributes = number_list(f"{where}.attribute", target.get("attribute"), len(WIDER_CLASSES))
    if not all(value in _LABEL for value in attributes):
        raise UserError(f"{where}.attribute: found {attributes}, expected 1, 0 or -1")
    labels_C = np.array([_LABEL[int(value)] for value in attributes], np.int8)
    return Sample(person_id, image, labels_C, where, crop=crop)
