"""YOLO -> index: a text file of boxes or outlines for each image, and data.yaml or a list of the classes.

A line is `class x y width height`, or `class x1 y1 x2 y2 ...`, as shares of the image as it is shown. An image without
a file, or with an empty one, shows no class.
"""

import math
from pathlib import Path
from typing import Any

from PIL import Image

from masksup.base.words import counted
from masksup.config.yaml_text import parse_yaml
from masksup.data.decode_pil import FORMATS, is_sideways
from masksup.data.prepare.images import inside
from masksup.data.prepare.options import existing_file, named_splits, read_text, require_classes
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Box, Labelled, Row
from masksup.data.prepare.tables.words import looks_like_image
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_YAML = ("data.yaml", "data.yml", "dataset.yaml")
_LISTS = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
_SPLITS = ("train", "val", "valid", "test")


def prepare_yolo(
    root: Path,
    *,
    split: list[str] | None = None,
    names: str | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    same_case: bool = False,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Splits: those of data.yaml, else images/<split>, <split>/images or <split>, else `images` or all of `root` as
    `train`.

    `split`: NAME=FOLDER of images, or a text file that lists them. `names`: data.yaml or a list, one class a line.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected images and labels in YOLO's layout")
    file = _description(root, names)
    described = _yaml(file) if file.suffix in (".yaml", ".yml") else {}
    known = _class_names(file, described)
    images = _splits(root, described, split)
    numbers = 5 if described.get("kpt_shape") else None  # of key points, which follow, the box alone is read
    tables = {name: _labelled(root, name, paths, known, numbers) for name, paths in images.items()}
    rules = ClassRules(classes, tuple(drop_class or ()), same_case=same_case)
    return contents_of("yolo", tables, FindImages(root), root, rules, skip_broken=skip_broken)


def _description(root: Path, names: str | None) -> Path:
    if names is not None:
        return existing_file(names, root)
    found = [root / name for name in (*_YAML, *_LISTS) if (root / name).is_file()] or sorted(root.glob("*.yaml"))
    found = found or [root / "labels" / name for name in _LISTS if (root / "labels" / name).is_file()]
    if not found:
        raise UserError(
            f"--root {root}: found no data.yaml or classes.txt, expected the names of the classes (--names)"
        )
    return found[0]


def _yaml(file: Path) -> dict[str, Any]:
    try:
        found = parse_yaml(read_text(file), texts=True)  # `no` and `on` are names of classes here
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: malformed YAML ({error}), expected names, train and val") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: found no mapping, expected names, train and val")
    return found


def _class_names(file: Path, described: dict[str, Any]) -> tuple[str, ...]:
    if not described:
        lines = [line.strip() for line in read_text(file).rstrip().splitlines()]
        if "" in lines:  # programs differ in whether it is a number of its own
            raise UserError(f"{file}, line {lines.index('') + 1}: found an empty line, expected the name of a class")
        return require_classes(tuple(lines), str(file))
    names = described.get("names")
    if isinstance(names, dict) and set(names) == {str(number) for number in range(len(names))}:
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"{file}: found names = {str(names)[:60]}, expected a list of classes, or one by number from 0")
    if (stated := str(described.get("nc") or len(names))) != str(len(names)):
        raise UserError(
            f"{file}: found nc = {stated[:20]}, but {counted(len(names), 'class')} in names; expected as many"
        )
    return require_classes(tuple(str(name).strip() for name in names), str(file))


def _splits(root: Path, described: dict[str, Any], given: list[str] | None) -> dict[str, list[Path]]:
    if given:
        wanted: dict[str, list[str]] = {
            name: [place or f"images/{name}"] for name, place in named_splits(given).items()
        }
    else:
        wanted = {name: _texts(described[name]) for name in _SPLITS if described.get(name)}
    base = root / str(described.get("path") or "")
    if wanted:
        return {
            name: [path for place in places for path in _images(root, base, place)] for name, places in wanted.items()
        }
    found = {name: folder for name in _SPLITS if (folder := _split_folder(root, name)) is not None}
    found = found or {"train": root / "images" if (root / "images").is_dir() else root}
    return {name: _in_folder(folder) for name, folder in found.items()}


def _split_folder(root: Path, name: str) -> Path | None:
    for folder in (root / "images" / name, root / name / "images"):
        if folder.is_dir():
            return folder
    beside = root / name  # images and their texts
    return beside if beside.is_dir() and any(looks_like_image(path.name) for path in beside.iterdir()) else None


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _images(root: Path, base: Path, place: str) -> list[Path]:
    """Of a folder, or of a text file that lists images; exporters write `../train/images` for what lies in the root."""
    inner = place.removeprefix("./")
    while inner.startswith("../"):
        inner = inner[3:]
    for path in (base / place, root / place, root / inner):
        if path.is_dir():
            return _in_folder(path)
        if path.is_file():
            lines = [line.strip().removeprefix("./") for line in read_text(path).splitlines() if line.strip()]
            return [_listed(root, path, line) for line in lines]
    raise UserError(f"--root {root}: found no '{place}', expected a folder of images or a list of them")


def _listed(root: Path, file: Path, line: str) -> Path:
    if Path(line).is_absolute():
        return Path(line)
    return next((base / line for base in (file.parent, root) if (base / line).is_file()), root / line)


def _in_folder(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if looks_like_image(path.name) and not path.name.startswith("."))


def _labelled(root: Path, split: str, images: list[Path], names: tuple[str, ...], numbers: int | None) -> Labelled:
    rows, without = [], 0
    tops = {root, root.absolute(), root.resolve()}
    for number, image in enumerate(images, 1):
        top = next((top for top in tops if image.is_relative_to(top)), None)
        relative = inside(str(image) if top is None else image.relative_to(top).as_posix(), f"split '{split}'")
        file = _label_file(root, relative)
        without += file is None
        lines = read_text(file).splitlines() if file is not None else []
        marked = [_object(file, n, line.split()[:numbers], names) for n, line in enumerate(lines, 1) if line.strip()]
        labels = dict.fromkeys((name for name, _ in marked), 1)
        rows.append(Row(number, relative, labels, _boxes(image, marked)))
    said = [f"{counted(without, 'image')} without a file of labels, taken as showing no class"] if without else []
    if rows and without == len(rows):
        raise UserError(f"--root {root}: found no file of labels for any of {counted(len(rows), 'image')} of '{split}'")
    return Labelled(root, names, rows, said, lambda number: f"{split} image {number}")


def _label_file(root: Path, image: str) -> Path | None:
    """`labels` in place of the last `images` of its path, or the text beside it."""
    text = image.rsplit(".", 1)[0] + ".txt"
    head, found, tail = f"/{text}".rpartition("/images/")
    candidates = [root / f"{head}/labels/{tail}".lstrip("/")] if found else []
    return next((path for path in (*candidates, root / text) if path.is_file()), None)


def _object(file: Path | None, number: int, words: list[str], names: tuple[str, ...]) -> tuple[str, list[float]]:
    """Class and corners x1 y1 x2 y2 as shares."""
    where, line = f"{file}, line {number}", " ".join(words)
    try:
        which, *values = (float(word) for word in words)
    except ValueError:
        raise UserError(f"{where}: found '{line[:60]}', expected numbers: class x y width height") from None
    if len(values) < 4 or not all(map(math.isfinite, (which, *values))) or min(values) < -1 or max(values) > 2:
        raise UserError(f"{where}: found '{line[:60]}', expected class x y width height as shares of the image")
    if which != int(which) or not 0 <= which < len(names):
        raise UserError(
            f"{where}: found the class {which:g}, expected 0 to {len(names) - 1} ({counted(len(names), 'class')})"
        )
    if len(values) in (4, 5):  # the fifth is a confidence
        x, y, width, height = values[:4]
        return names[int(which)], [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    xs, ys = values[::2], values[1::2]
    return names[int(which)], [min(xs), min(ys), max(xs), max(ys)]


def _boxes(image: Path, marked: list[tuple[str, list[float]]]) -> list[Box]:
    """In px of the image as it is shown; none of a broken image, which is named when all are checked."""
    if not marked:
        return []
    try:
        with Image.open(image, formats=FORMATS) as opened:
            width, height = reversed(opened.size) if is_sideways(opened) else opened.size
    except Exception:  # Pillow's parsers raise anything for damaged files
        return []
    return [Box(name, x1 * width, y1 * height, x2 * width, y2 * height) for name, (x1, y1, x2, y2) in marked]
