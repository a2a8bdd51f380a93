"""What Roboflow exports as CSV: <split>/_classes.csv (labels) or <split>/_annotations.csv (boxes) beside the images."""

from pathlib import Path

from masksup.base.words import counted
from masksup.data.prepare.csv import labelled_of
from masksup.data.prepare.options import named_splits
from masksup.data.prepare.tables.cells import Table, read_table
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.columns import ColumnRules
from masksup.data.prepare.tables.contents import contents_of
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.labelled import Box, Labelled, Row
from masksup.data.prepare.tables.marks import meaning
from masksup.data.prepare.tables.words import looks_like_image
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_FILES = ("_classes.csv", "_annotations.csv")
_COLUMNS = ("filename", "class", "xmin", "ymin", "xmax", "ymax")


def prepare_roboflow(
    root: Path,
    *,
    split: list[str] | None = None,
    classes: str | None = None,
    drop_class: list[str] | None = None,
    none: list[str] | None = None,
    same_case: bool = False,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Splits: each folder of `root` with such a file (train, valid, test), or those of `split` by name."""
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected <split>/_classes.csv or <split>/_annotations.csv")
    found = {path.parent.name: path for name in reversed(_FILES) for path in sorted(root.glob(f"*/{name}"))}
    wanted = list(named_splits(split)) if split else sorted(found)
    for name in wanted or ["train"]:
        if name not in found:
            raise UserError(f"--root {root}: found no {name}/_classes.csv or {name}/_annotations.csv, expected one")
    find = FindImages(root)
    read = {name: read_table(found[name]) for name in wanted}
    boxed = {name: _with_boxes(table) for name, table in read.items() if table.file.name == _FILES[1]}
    others = {name: table for name, table in read.items() if name not in boxed}
    tables = {**boxed, **labelled_of(others, ColumnRules(), find, meaning())}
    for name, table in tables.items():
        table.warnings += _without_row(root / name, table)
        for row in table.rows:
            row.image = f"{name}/{row.image}"
    rules = ClassRules(classes, tuple(drop_class or ()), tuple(none or ()), same_case)
    ordered = {name: tables[name] for name in wanted}
    return contents_of("roboflow", ordered, find, root, rules, skip_broken=skip_broken)


def _without_row(folder: Path, table: Labelled) -> list[str]:
    here = {path.name for path in folder.iterdir() if looks_like_image(path.name) and not path.name.startswith(".")}
    rest = sorted(here - {row.image for row in table.rows})
    if not rest:
        return []
    return [
        f"{counted(len(rest), 'image')} in {folder.name} without a row in {table.file.name}, left out (first: "
        f"{rest[0]}); the export does not say whether it was looked at"
    ]


def _with_boxes(table: Table) -> Labelled:
    line, head = table.rows[0]
    missing = [name for name in _COLUMNS if name not in head]
    if missing:
        raise UserError(
            f"{table.where(line)}: found the header '{','.join(head)[:80]}', expected a column '{missing[0]}', too"
        )
    rows: dict[str, Row] = {}
    for line, cells in table.rows[1:]:
        try:
            name, label, *edges = (cells[head.index(column)] for column in _COLUMNS)
            left, top, right, bottom = map(float, edges)
        except (IndexError, ValueError):
            raise UserError(f"{table.where(line)}: found '{','.join(cells)[:80]}', expected a box of numbers") from None
        row = rows.setdefault(name, Row(line, name, {}, [], _size(head, cells)))
        row.labels[label] = 1
        assert row.boxes is not None
        row.boxes.append(Box(label, left, top, right, bottom))
    return Labelled(table.file, None, list(rows.values()), [], table.where)


def _size(head: list[str], cells: list[str]) -> tuple[int, int] | None:
    """Width and height that the table states, which tell whether the boxes are those of the turned picture."""
    stated = [cells[head.index(side)] for side in ("width", "height") if side in head]
    return (int(stated[0]), int(stated[1])) if len(stated) == 2 and all(map(str.isdecimal, stated)) else None
