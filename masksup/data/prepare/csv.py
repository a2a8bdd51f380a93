"""CSV files -> index: one row an image, whole images, EXIF orientation applied.

Two forms. Label lists: two columns, `image,labels` with labels joined by '|' (the header may be missing).
One column a class: header `image,<class>,...`, values 1 present, 0 absent, -1 ignored.
"""

from csv import Error, reader
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from masksup.base.words import counted
from masksup.data.prepare.assemble import RawSplit, Sample, assemble
from masksup.data.prepare.images import inside
from masksup.data.prepare.options import (
    class_list,
    existing_file,
    named_splits,
    read_text,
    require_classes,
    split_of,
)
from masksup.data.write_index import IndexContent
from masksup.errors import UserError, nearest


@dataclass(frozen=True)
class _Table:
    file: Path
    columns: tuple[str, ...] | None  # classes of the header; None for label lists
    rows: list[tuple[int, str, dict[str, int]]]  # line, image, the labels that are not 0


def prepare_csv(
    root: Path,
    *,
    csv: list[str] | None = None,
    split: list[str] | None = None,
    images: str | None = None,
    classes: str | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Images below `root` (or its folder `images`) listed in CSV files.

    Splits: each file of `csv` under its stem, each NAME=FILE of `split`; default: every *.csv in `root`.
    Classes: `classes` (comma list or file), else the columns of the header, else the labels found, sorted.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected the folder of the images")
    folder = root if images is None or Path(images) == Path() else root / inside(images, "--images")
    if not folder.is_dir():
        raise UserError(f"--images {images}: found no folder '{folder}', expected the folder of the images")
    tables = {name: _read_table(file) for name, file in _files(root, csv or [], split or []).items()}
    names = class_list(classes, root) if classes else _classes_of(list(tables.values()))
    origin = "--classes" if classes else "another split"
    splits = [_split(name, table, names, origin) for name, table in tables.items()]
    return assemble(folder, "csv", splits, names, skip_broken=skip_broken, exif=True)


def prepare_train_and_test(root: Path, train: Path, test: Path) -> list[IndexContent]:
    """Two tables of images below `root`, of which the first alone says what classes there are.

    UserError for a class of the test table that the training table does not have: it could not be learnt.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder, expected the folder of the images")
    tables = {name: _read_table(file) for name, file in _files(root, [str(train), str(test)], []).items()}
    names = _classes_of(list(tables.values())[:1])
    splits = [_split(name, table, names, "the training table") for name, table in tables.items()]
    return assemble(root, "csv", splits, names, skip_broken=False, exif=True)


def _files(root: Path, listed: list[str], split: list[str]) -> dict[str, Path]:
    wanted = [split_of(file, "--csv") for file in listed] + split
    if not wanted:
        files = sorted(path.name for path in root.glob("*.csv") if not path.name.startswith("."))
        wanted = [split_of(name, f"--root {root}") for name in files]
    if not wanted:
        raise UserError(f"--root {root}: found no .csv file, expected some or --csv FILE or --split NAME=FILE")
    return {name: existing_file(file or f"{name}.csv", root) for name, file in named_splits(wanted).items()}


def _read_table(file: Path) -> _Table:
    rows: list[tuple[int, list[str]]] = []
    table = reader(StringIO(read_text(file), newline=""), strict=True)
    try:
        for row in table:
            if row:
                rows.append((table.line_num, [cell.strip() for cell in row]))
    except Error as error:
        raise UserError(f"{file}, line {table.line_num}: malformed CSV ({error})") from error
    if not rows:
        raise UserError(f"{file}: found an empty file, expected rows of image and labels")
    head = rows[0][1]
    titled = head[0].lower() == "image"
    for line, row in rows:
        if len(row) != len(head):
            raise UserError(
                f"{file}, line {line}: malformed CSV: found {counted(len(row), 'column')}, expected {len(head)}"
            )
    if len(head) < 2 or (len(head) > 2 and not titled):
        raise UserError(
            f"{file}, line 1: malformed CSV: found the header '{','.join(head)[:60]}', expected 'image,labels' or "
            "'image,<class>,<class>,...'"
        )
    if len(head) == 2 and (not titled or head[1].lower() in ("label", "labels")):
        listed = [(line, row[0], _listed(row[1])) for line, row in rows[1 if titled else 0 :]]
        return _Table(file, None, listed)
    columns = require_classes(tuple(head[1:]), f"{file}, line 1")
    return _Table(file, columns, [(line, row[0], _marked(file, line, columns, row[1:])) for line, row in rows[1:]])


def _listed(cell: str) -> dict[str, int]:
    return {label.strip(): 1 for label in cell.split("|") if label.strip()}


def _marked(file: Path, line: int, columns: tuple[str, ...], cells: list[str]) -> dict[str, int]:
    for column, cell in zip(columns, cells):
        if cell not in ("1", "0", "-1"):
            raise UserError(
                f"{file}, line {line}: found '{cell}' for class '{column}', expected 1 (present), 0 (absent) "
                "or -1 (ignored)"
            )
    return {column: int(cell) for column, cell in zip(columns, cells) if cell != "0"}


def _classes_of(tables: list[_Table]) -> tuple[str, ...]:
    for table in tables:
        if table.columns is not None:
            return table.columns
    found = {label for table in tables for _, _, labels in table.rows for label in labels}
    return require_classes(tuple(sorted(found)), str(tables[0].file))


def _split(name: str, table: _Table, classes: tuple[str, ...], origin: str) -> RawSplit:
    """The rows of a table. `origin`: where the classes are from, for people."""
    known = {class_name: number for number, class_name in enumerate(classes)}
    _require_columns(table, classes, origin)
    raw = RawSplit(name, [], str(table.file))
    for line, image, labels in table.rows:
        where = f"{table.file}, line {line}"
        labels_C = np.zeros(len(classes), np.int8)
        for label, value in labels.items():
            if label not in known:
                raise UserError(f"{where}: found the unknown class '{label}'; {nearest(label, known)}")
            labels_C[known[label]] = value
        path = inside(image, where)
        raw.samples.append(Sample(path, path, labels_C, where))
    ignored = sum(value == -1 for _, _, labels in table.rows for value in labels.values())
    if 2 * ignored > len(classes) * len(table.rows):
        raw.warnings.append("more than half of all labels are -1, which means ignored; absent is 0")
    return raw


def _require_columns(table: _Table, classes: tuple[str, ...], origin: str) -> None:
    if table.columns is None:
        return
    unknown = [column for column in table.columns if column not in classes]
    if unknown:
        raise UserError(f"{table.file}, line 1: found the unknown class '{unknown[0]}'; {nearest(unknown[0], classes)}")
    missing = [name for name in classes if name not in table.columns]
    if missing:
        raise UserError(f"{table.file}, line 1: found no column '{missing[0]}', expected it as in {origin}")
