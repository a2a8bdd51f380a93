"""CelebA: list_attr_celeba and list_eval_partition (.txt as published, or .csv) -> index; 1 present, -1 absent."""

from pathlib import Path

from masksup.base.words import counted
from masksup.data.prepare.options import named_splits, read_text
from masksup.data.prepare.tables.cells import read_table
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Labelled, Row
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_SPLITS = {"0": "train", "1": "val", "2": "test"}
_PLACES = ("", "Anno/", "Eval/", "celeba/", "celeba/Anno/", "celeba/Eval/")
_IMAGES = (
    "img_align_celeba",
    "Img/img_align_celeba",
    "celeba/img_align_celeba",
    "celeba/Img/img_align_celeba",
    "images",
)


def prepare_celeba(
    root: Path,
    *,
    split: list[str] | None = None,
    images: str | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """The official splits train, val and test, or those of them that `split` names."""
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected CelebA")
    names, labels = _attributes(_file(root, "list_attr_celeba"))
    parts = _partition(_file(root, "list_eval_partition"))
    if lost := [row for row in labels if row.image not in parts]:
        raise UserError(
            f"{_file(root, 'list_eval_partition')}: found no line of {lost[0].image} ({len(lost):,} such images), "
            f"expected all images of {_file(root, 'list_attr_celeba').name}"
        )
    wanted = list(named_splits(split)) if split else list(_SPLITS.values())
    folder = _folder(root, images)
    tables = {}
    for name in wanted:
        if name not in _SPLITS.values():
            raise UserError(f"--split: found '{name}', expected train, val or test")
        rows = [row for row in labels if parts.get(row.image) == name]
        if rows or split:
            tables[name] = Labelled(_file(root, "list_attr_celeba"), names, rows)
    if not tables:
        raise UserError(
            f"{_file(root, 'list_eval_partition')}: found no image of {_file(root, 'list_attr_celeba').name}"
        )
    rules = ClassRules(classes, tuple(drop_class or ()))
    return contents_of("celeba", tables, FindImages(folder), root, rules, skip_broken=skip_broken)


def _file(root: Path, name: str) -> Path:
    found = [root / f"{place}{name}{ending}" for place in _PLACES for ending in (".txt", ".csv")]
    file = next((path for path in found if path.is_file()), None)
    if file is None:
        raise UserError(
            f"--root {root}: found no {name}.txt or {name}.csv, expected it there or in Anno, Eval or celeba"
        )
    return file


def _folder(root: Path, images: str | None) -> Path:
    found = [root / place for place in ((images,) if images else _IMAGES) if (root / place).is_dir()]
    if not found:
        raise UserError(
            f"--root {root}: found no folder {images or _IMAGES[0]}, expected the images there (--images DIR)"
        )
    inner = found[0] / found[0].name  # as it is unpacked from some archives
    return inner if inner.is_dir() else found[0]


def _rows(file: Path) -> list[tuple[int, list[str]]]:
    """Words of each line, of a published text without its first line, which counts the images. UserError for others."""
    if file.suffix == ".csv":
        return read_table(file).rows
    lines = [(number, line.split()) for number, line in enumerate(read_text(file).splitlines(), 1) if line.split()]
    if not lines or len(lines[0][1]) > 1 or not lines[0][1][0].isdigit():
        return lines
    stated, found = int(lines[0][1][0]), len(lines) - 2  # the second line names the attributes
    if stated != found:
        raise UserError(
            f"{file}, line 1: found {counted(stated, 'image')} stated and {found:,} below; expected the whole file"
        )
    return lines[1:]


def _attributes(file: Path) -> tuple[tuple[str, ...], list[Row]]:
    rows = _rows(file)
    if len(rows) < 2:
        raise UserError(f"{file}: found no images, expected the names of the attributes and a line an image")
    width, head = len(rows[1][1]) - 1, rows[0][1]
    names = tuple(head[-width:])  # a table names the column of images, too
    found, signs = [], {value for _, (_, *values) in rows[1:] for value in values} & {"0", "-1"}
    for line, (image, *values) in rows[1:]:
        if len(values) != len(names) or not set(values) <= {"1", "-1", "0"}:
            raise UserError(f"{file}, line {line}: found {len(values)} values, expected {len(names)} of 1 or -1")
        if len(signs) > 1 and "0" in values:
            raise UserError(f"{file}, line {line}: found 0 in a list with -1, expected 1 or -1, or 1 and 0 alone")
        found.append(Row(line, image, {name: 1 for name, value in zip(names, values) if value == "1"}))
    return names, found


def _partition(file: Path) -> dict[str, str]:
    parts = {}
    for line, words in _rows(file):
        if len(words) == 2 and words[1] in _SPLITS:
            parts[words[0]] = _SPLITS[words[1]]
        elif parts:
            raise UserError(f"{file}, line {line}: found '{' '.join(words)[:60]}', expected an image and 0, 1 or 2")
    return parts
