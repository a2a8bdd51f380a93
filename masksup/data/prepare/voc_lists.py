"""The lists of VOC by themselves, without XML: ImageSets/Main/<class>_<split>.txt -> index.

A line is an id and 1 (present), 0 (only as a difficult object) or -1 (absent).
"""

from pathlib import Path
from typing import Literal

from masksup.data.prepare.options import named_splits, read_text
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Labelled, Row
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_LISTS = Path("ImageSets") / "Main"
_SPLITS = ("train", "val", "trainval", "test")
_DIFFICULT = {"ignore": -1, "present": 1, "absent": 0}


def prepare_voc_lists(
    root: Path,
    *,
    split: list[str] | None = None,
    images: str | None = None,
    suffix: str = ".jpg",
    difficult: Literal["ignore", "present", "absent"] | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    same_case: bool = False,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Splits: train, val, trainval and test where all classes have a list, or `split` by name.

    `root`: VOCdevkit, one data set in it, or a folder that holds ImageSets or the lists themselves.
    """
    base = _base(root)
    lists = base / _LISTS if (base / _LISTS).is_dir() else base
    wanted = list(named_splits(split)) if split else [name for name in _SPLITS if any(lists.glob(f"*_{name}.txt"))]
    if not wanted:
        raise UserError(f"--root {root}: found no list, expected {lists / '<class>_<split>.txt'}")
    folder = base / (images or "JPEGImages")
    if not folder.is_dir():
        raise UserError(f"--images: found no folder '{folder}', expected the images there, or --images DIR below it")
    tables = {name: _labelled(lists, name, difficult or "ignore") for name in wanted}
    values = {value for table in tables.values() for row in table.rows for value in row.labels.values()}
    if difficult is None and values == {1, -1}:
        raise UserError(
            f"{lists}: found 0 and 1 but never -1, expected -1 for absent; --difficult absent if 0 means that, "
            "--difficult ignore if it means difficult"
        )
    rules = ClassRules(classes, tuple(drop_class or ()), same_case=same_case)
    return contents_of("voc-lists", tables, FindImages(folder, suffix), root, rules, skip_broken=skip_broken)


def _base(root: Path) -> Path:
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected VOC ({_LISTS} and JPEGImages)")
    inner = [path for path in sorted([*root.glob("VOC2*"), *root.glob("VOCdevkit/VOC2*")]) if (path / _LISTS).is_dir()]
    if not (root / _LISTS).is_dir() and len(inner) > 1:
        raise UserError(f"--root {root}: found {', '.join(path.name for path in inner)}, expected one: {inner[0]}")
    return inner[0] if inner and not (root / _LISTS).is_dir() else root


def _labelled(lists: Path, split: str, difficult: str) -> Labelled:
    files = sorted(file for file in lists.glob(f"*_{split}.txt") if file.name != f"_{split}.txt")
    if not files:
        raise UserError(f"--split {split}: found no list, expected {lists / f'<class>_{split}.txt'}")
    classes = tuple(file.stem.removesuffix(f"_{split}") for file in files)
    rows: dict[str, Row] = {}
    for name, file in zip(classes, files):
        listed = _read(file)
        if file == files[0]:
            rows = {key: Row(line, key, {}) for key, (line, _) in listed.items()}
        if missing := sorted(rows.keys() ^ listed.keys()):
            raise UserError(
                f"{file}: found other ids than in {files[0].name} (such as {missing[0]}), expected the same"
            )
        for key, (_, value) in listed.items():
            rows[key].labels[name] = {1: 1, 0: _DIFFICULT[difficult], -1: 0}[value]
    return Labelled(files[0], classes, list(rows.values()))


def _read(file: Path) -> dict[str, tuple[int, int]]:
    """{id: (line, value)}"""
    found: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in ("1", "0", "-1", "+1"):
            raise UserError(f"{file}, line {number}: found '{line.strip()[:60]}', expected an id and 1, 0 or -1")
        if words[0] in found:
            raise UserError(f"{file}, line {number}: found the id '{words[0]}' twice, expected each once")
        found[words[0]] = number, int(words[1])
    return found
