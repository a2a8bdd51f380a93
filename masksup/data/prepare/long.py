"""Tables of one row a label (Open Images: ImageID, LabelName, Confidence) -> index.

A row says that its image shows its label, from --confidence on. Where Confidence is 0, a person looked and the label is
absent. In between nobody knows. Labels that no row of an image names are unknown where some row of the tables says 0,
as in Open Images, and absent where none does; --unlisted says otherwise.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Literal

from masksup.base.words import counted
from masksup.data.prepare.csv import table_files
from masksup.data.prepare.options import existing_file
from masksup.data.prepare.tables.cells import Table, read_table
from masksup.data.prepare.tables.classes import ClassRules
from masksup.data.prepare.tables.contents import contents_of, images_folder
from masksup.data.prepare.tables.find_images import FindImages
from masksup.data.prepare.tables.joined import Cell, joining, refuse_cut_lists
from masksup.data.prepare.tables.labelled import Labelled, Row, set_uncertain
from masksup.data.prepare.tables.names import Names
from masksup.data.prepare.tables.split_column import divided
from masksup.data.prepare.tables.words import (
    IMAGE_NAMES,
    KNOWN_IMAGE,
    KNOWN_LABELS,
    LABEL_NAMES,
    SELDOM_CLASSES,
    VALUES,
    looks_like_image,
    plain,
    value_word,
)
from masksup.data.write_index import IndexContent
from masksup.errors import UserError, nearest

_IN_NAMES = " -_.'()"  # there is no --separator here to say that such a name is whole
_CONFIDENCE = ("confidence", "conf", "score", "probability", "value", "present", "verified")


def prepare_long(
    root: Path,
    *,
    csv: list[str] | None = None,
    split: list[str] | None = None,
    images: str | None = None,
    suffix: str | None = None,
    image_column: str | None = None,
    labels_column: list[str] | None = None,
    ignore_column: list[str] | None = None,
    split_column: str | None = None,
    strip: str | None = None,
    names: str | None = None,
    confidence: float = 0.5,
    unlisted: Literal["ignore", "absent"] | None = None,
    uncertain: Literal["ignore", "present", "absent"] = "ignore",
    classes: str | None = None,
    drop_class: list[str] | None = None,
    none: list[str] | None = None,
    same_case: bool = False,
    encoding: str | None = None,
    skip_broken: bool = False,
) -> list[IndexContent]:
    """Images below `root` (or its folder `images`) whose labels stand in a row each. Splits as of `csv`.

    `names`: a table of label ids and their names, such as class-descriptions.csv of Open Images.
    """
    if not 0 < confidence <= 1:
        raise UserError(f"--confidence: found {confidence}, expected a number above 0, at most 1")
    if labels_column and len(labels_column) > 1:
        raise UserError(f"--labels-column: found {len(labels_column)}, expected one, as each row has one label")
    find = FindImages(images_folder(root, images), suffix, strip)
    called = existing_file(names, root) if names else None
    files = table_files(root, csv or [], split or [], leave_out=called)
    named = Names.read(called, encoding) if called else Names()
    read = {name: read_table(file, encoding) for name, file in files.items()}
    read = divided(read, split_column, ignore_column or ())
    label = labels_column[0] if labels_column else None
    rules = ClassRules(classes, tuple(drop_class or ()), tuple(none or ()), same_case)
    known = rules.chosen(root)
    tables = {
        name: _joined(table, _columns(table, image_column, label), named, confidence, known)
        for name, table in read.items()
    }
    next(iter(tables.values())).warnings += named.warnings()
    verified = any(value == 0 for table in tables.values() for row in table.rows for value in row.labels.values())
    for table in tables.values():
        table.unlisted = -1 if (unlisted or ("ignore" if verified else "absent")) == "ignore" else 0
        set_uncertain(table, uncertain)
    return contents_of("long", tables, find, root, rules, skip_broken=skip_broken)


def _columns(table: Table, image: str | None, label: str | None) -> tuple[int, int, int | None, int]:
    """Numbers of the columns of image, label and confidence, and of the first row below the header."""
    line, head = table.rows[0]
    if looks_like_image(head[0]) and len(head) == 2:
        return 0, 1, None, 0
    found = [_column(table, image, head, IMAGE_NAMES), _column(table, label, head, LABEL_NAMES)]
    if None in found:
        raise UserError(
            f"{table.where(line)}: found the header '{','.join(head)[:80]}', expected a column of images "
            f"({KNOWN_IMAGE}) and one of labels ({KNOWN_LABELS}); --image-column and --labels-column say which they are"
        )
    confidence = next((c for c, name in enumerate(head) if plain(name) in _CONFIDENCE), None)
    _refuse_marks(table, head, found[1] or 0, confidence, label)
    return found[0] or 0, found[1] or 0, confidence, 1


def _refuse_marks(table: Table, head: list[str], label: int, confidence: int | None, given: str | None) -> None:
    """UserError where a column of labels holds 1 and 0 alone: it may as well say whether a label is present."""
    for c, name in enumerate(head):
        settled = given is not None if c == label else confidence is not None or plain(name) not in LABEL_NAMES
        words = {value_word(row[c]) for _, row in table.rows[1:] if c < len(row)} - {""}
        if not settled and words and words <= {"0", "1"}:
            raise UserError(
                f"{table.where(table.rows[0][0])}: found nothing but {', '.join(sorted(words))} in column '{name}'; "
                "call it 'confidence' in the header if 1 means present and 0 absent"
                + (f", or --labels-column '{name}' if these are names of classes" if c == label else "")
            )


def _column(table: Table, given: str | None, head: list[str], known: tuple[str, ...]) -> int | None:
    if given is not None:
        if given not in head:
            raise UserError(f"{table.where(table.rows[0][0])}: found no column '{given}'; {nearest(given, head)}")
        return head.index(given)
    return min(
        (c for c, name in enumerate(head) if plain(name) in known),
        key=lambda c: known.index(plain(head[c])),
        default=None,
    )


def _joined(
    table: Table, columns: tuple[int, int, int | None, int], named: Names, least: float, known: tuple[str, ...] | None
) -> Labelled:
    """The rows of one image as one."""
    image, label, confidence, first = columns
    rows: dict[str, Row] = {}
    contradicted: set[tuple[str, str]] = set()
    _refuse_joined(table, [Cell(line, cells[label]) for line, cells in table.rows[first:] if label < len(cells)], known)
    for line, cells in table.rows[first:]:
        if len(cells) <= max(image, label, confidence or 0):
            raise UserError(f"{table.where(line)}: malformed CSV: found {counted(len(cells), 'column')}")
        row = rows.setdefault(cells[image], Row(line, cells[image], {}))
        if not cells[label]:
            continue
        name = named.of(cells[label])
        value = 1 if confidence is None else _value(table, line, cells[confidence], least)
        before = row.labels.get(name, value)
        if {before, value} == {0, 1}:
            contradicted.add((row.image, name))
        row.labels[name] = max(before, value)  # of an unsure row and a sure one, the sure one counts
    for key, name in contradicted:  # whatever other rows say
        rows[key].labels[name] = -1
    said = f"{counted(len(contradicted), 'label')} both present and absent by different rows, taken as ignored"
    parts = [name for c, name in enumerate(table.rows[0][1] if first else ()) if plain(name) in SELDOM_CLASSES]
    warnings = [f"not used: {counted(len(parts), 'column')} {', '.join(parts)}"] if parts else []
    warnings += [said] if contradicted else []
    return Labelled(table.file, None, list(rows.values()), warnings, table.where)


def _refuse_joined(table: Table, cells: list[Cell], known: tuple[str, ...] | None) -> None:
    """UserError where cells seem to hold several labels; names that --classes holds are single."""
    cells = [cell for cell in cells if cell.text and cell.text not in (known or ())]
    first = {cell.text: cell for cell in reversed(cells)}
    if found := joining(Counter(cell.text for cell in cells), known or (), skipped=_IN_NAMES):
        sign, name = found
        raise UserError(
            f"{table.where(first[name].line)}: found the label {name[:60]!r}, which '{sign}' seems to join, expected "
            "one label a row; `prepare csv` reads several in a cell, and a name that --classes holds is whole"
        )
    refuse_cut_lists(table, cells, [[cell.text] for cell in cells])


def _value(table: Table, line: int, cell: str, least: float) -> int:
    try:
        number = float(cell)
    except ValueError:
        number = float({1: 1, 0: 0}.get(VALUES.get(value_word(cell), -1), math.nan))
    if not 0 <= number <= 1:
        raise UserError(f"{table.where(line)}: found the confidence '{cell[:60]}', expected a number from 0 to 1")
    return 1 if number >= least else 0 if number == 0 else -1
