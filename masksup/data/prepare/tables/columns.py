"""What the columns of a table are: the image, lists of labels, a class each, or none of these."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from masksup.base.words import counted
from masksup.data.prepare.options import require_classes
from masksup.data.prepare.tables.cells import Table
from masksup.data.prepare.tables.classes import several
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
from masksup.errors import UserError, nearest

_MARKS = {*VALUES, "-1", ""}
_WHOLE = re.compile(r"[0-9]+(\.0)?")
# What an export has beside the image and the labels.
_LABEL_STUDIO = {"annotation_id", "annotator", "created_at", "updated_at", "lead_time", "id"}
_NUMBERS = {"1", "0", "-1", "true", "false"}


@dataclass(frozen=True)
class Columns:
    """Numbers of the columns. Either `labels` or `classes`; the rows are those below the header."""

    image: int
    labels: tuple[int, ...]
    classes: dict[str, int]
    rows: list[tuple[int, list[str]]]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ColumnRules:
    """What the user says of the columns."""

    image: str | None = None
    labels: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    separator: str | None = None
    known: tuple[str, ...] | None = None
    """The classes, where they are given."""


def columns_of(table: Table, rules: ColumnRules, is_image: Callable[[str], bool]) -> Columns:
    """The columns of `table`; `is_image` tells whether there is an image of a name. UserError for an unknown header."""
    head = table.rows[0][1]
    if looks_like_image(head[0]) or (rules.image is None and not _titled(head) and is_image(head[0])):
        return _without_header(table, rules)
    rows = _even(table, len(head), rules)
    if not rows:
        raise UserError(f"{table.file}: found a header and no row below it, expected a row for each image")
    head, kept = _named(table, head, rows, rules)
    image = _image_column(table, head, kept, rows, rules)
    labels = _labels_columns(table, head, kept, image, rows, rules)
    rest = [c for c in kept if c not in (image, *labels)]
    if labels:
        return Columns(image, labels, {}, rows, _beside_labels(table, head, labels, rest, rows))
    others = [c for c in rest if plain(head[c]) in IMAGE_NAMES and not _all_marks(c, rows)]
    classes = [c for c in rest if c not in others]
    if not classes:
        raise UserError(f"{table.where(table.rows[0][0])}: malformed CSV: {_unknown(head)}")
    if nameless := [head[c] for c in classes if _nameless(head[c])]:
        raise UserError(
            f"{table.where(table.rows[0][0])}: found a column without a name ('{nameless[0]}'), expected the name of a "
            f"class; --ignore-column '{nameless[0]}' leaves it out"
        )
    if len(classes) == 1 and not _mostly_marks(classes[0], rows):
        raise UserError(
            f"{table.where(table.rows[0][0])}: {_unknown(head)}; --labels-column '{head[classes[0]]}' says that it "
            "holds them"
        )
    warnings = [f"column '{head[c]}' is not used: the images are those of '{head[image]}'" for c in others]
    warnings += [
        f"column '{head[c]}' becomes a class; --ignore-column '{head[c]}' leaves it out"
        for c in classes
        if plain(head[c]) in {*SELDOM_CLASSES, *IMAGE_NAMES}
    ]
    warnings += [
        f"column '{head[c]}' is what pandas calls a second column '{head[c][:-2]}'; --ignore-column '{head[c]}' leaves "
        "it out"
        for c in classes
        if head[c].endswith(".1") and head[c][:-2] in head
    ]
    return Columns(image, (), _unique(table, head, classes), rows, warnings)


def _titled(head: Sequence[str]) -> bool:
    return any(plain(name) in IMAGE_NAMES for name in head)


def _unknown(head: Sequence[str]) -> str:
    return (
        f"found the header '{','.join(head)[:80]}', expected 'image,labels' or 'image,<class>,<class>,...' (a column "
        f"of images may also be called {KNOWN_IMAGE}, one of labels {KNOWN_LABELS})"
    )


def _without_header(table: Table, rules: ColumnRules) -> Columns:
    line, first = table.rows[0]
    rows = _even(table, len(first), rules, header=False)
    while len(first) > 2 and not any(row[-1] for _, row in rows):  # a separator at the end of each line
        first = first[:-1]
        rows = [(number, row[:-1]) for number, row in rows]
    marks = all(_all_marks(c, rows) for c in range(1, len(first)))
    if marks and rules.known is not None and len(rules.known) == len(first) - 1 and not {"0", "1"} & {*rules.known}:
        return Columns(0, (), {name: c for c, name in enumerate(rules.known, 1)}, rows)
    if marks and len(first) > 2:
        raise UserError(
            f"{table.where(line)}: found no header above {counted(len(first) - 1, 'column')} of 1 and 0, expected "
            "'image,<class>,<class>,...'; --classes A,B,... names as many classes in their order"
        )
    if len(first) == 2 or (rules.separator is not None and rules.separator == table.delimiter):
        if not rules.known:
            _refuse_numbers(table, None, {value_word(row[1]) for _, row in rows})
        return Columns(0, (1,), {}, rows)
    raise UserError(f"{table.where(line)}: malformed CSV: {_unknown(first)}")


def _even(table: Table, width: int, rules: ColumnRules, header: bool = True) -> list[tuple[int, list[str]]]:
    """The rows, all of `width` cells: empty ones behind it go. With --separator as the delimiter, labels run on."""
    runs_on = rules.separator is not None and rules.separator == table.delimiter
    even = []
    for line, row in table.rows[1 if header else 0 :]:
        if runs_on and len(row) > 1 and (width <= 2 or not header):
            row = [row[0], (rules.separator or "").join(row[1:])]
        while len(row) > width and not row[-1]:
            row = row[:-1]
        if len(row) != width and not (runs_on and not header):
            hint = f"; labels that '{table.delimiter}' joins belong in quotes, or name it by --separator"
            raise UserError(
                f"{table.where(line)}: malformed CSV: found {counted(len(row), 'column')}, expected {width}"
                f"{hint if width == 2 and len(row) > 2 else ''}"
            )
        even.append((line, row))
    return even


def _named(
    table: Table, head: list[str], rows: list[tuple[int, list[str]]], rules: ColumnRules
) -> tuple[list[str], list[int]]:
    """The header, and which of its columns count: not those the user ignores, empty ones, or pandas' row numbers."""
    wanted = set(several(rules.ignore, head))
    own = _LABEL_STUDIO if {"annotation_id", "lead_time"} <= {*head} else set()
    for name in wanted:
        if name not in head:
            raise UserError(
                f"{table.where(table.rows[0][0])}: --ignore-column: found no '{name}'; {nearest(name, head)}"
            )
    kept = []
    for c, name in enumerate(head):
        leads = all(map(_nameless, head[: c + 1]))  # a table that pandas wrote twice has two such columns
        numbered = leads and all(_WHOLE.fullmatch(row[c]) for _, row in rows) and any(map(_is_name, head[1:]))
        empty = _nameless(name) and not any(row[c] for _, row in rows)
        if name not in wanted and name not in own and not numbered and not empty:
            kept.append(c)
    return head, kept


def _nameless(name: str) -> bool:
    """Whether this is what pandas and spreadsheets write above a column that has no name."""
    return name == "" or name.casefold().startswith("unnamed:")


def _is_name(name: str) -> bool:
    return plain(name) in IMAGE_NAMES


def _all_marks(c: int, rows: list[tuple[int, list[str]]]) -> bool:
    return all(value_word(row[c]) in _MARKS for _, row in rows)


def _mostly_marks(c: int, rows: list[tuple[int, list[str]]]) -> bool:
    return 2 * sum(value_word(row[c]) in _MARKS for _, row in rows) >= len(rows)


def _by_name(table: Table, head: list[str], name: str, option: str) -> int:
    if name not in head:
        raise UserError(f"{table.where(table.rows[0][0])}: {option}: found no '{name}'; {nearest(name, head)}")
    return head.index(name)


def _image_column(
    table: Table, head: list[str], kept: list[int], rows: list[tuple[int, list[str]]], rules: ColumnRules
) -> int:
    if rules.image is not None:
        return _by_name(table, head, rules.image, "--image-column")
    known = [c for c in kept if plain(head[c]) in IMAGE_NAMES]
    _refuse_twice(table, [head[c] for c in known])
    if not known:
        raise UserError(
            f"{table.where(table.rows[0][0])}: malformed CSV: {_unknown(head)}; --image-column NAME says which it is"
        )
    known.sort(key=lambda c: IMAGE_NAMES.index(plain(head[c])))
    return next((c for c in known if not _all_marks(c, rows)), known[0])


def _labels_columns(
    table: Table, head: list[str], kept: list[int], image: int, rows: list[tuple[int, list[str]]], rules: ColumnRules
) -> tuple[int, ...]:
    if rules.labels:
        return tuple(_by_name(table, head, name, "--labels-column") for name in several(rules.labels, head))
    named = [c for c in kept if c != image and plain(head[c]) in LABEL_NAMES]
    _refuse_twice(table, [head[c] for c in named])
    if len(kept) == 2 and named:
        _refuse_numbers(table, head[named[0]], {value_word(row[named[0]]) for _, row in rows})
        return (named[0],)
    _refuse_numbered(table, [head[c] for c in kept if c != image and not _all_marks(c, rows)])
    return next(((c,) for c in named if not _all_marks(c, rows)), ())


def _refuse_twice(table: Table, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{table.where(table.rows[0][0])}: found the column '{name}' twice, expected each once; rename one"
            )


def _refuse_numbered(table: Table, names: list[str]) -> None:
    """UserError where several columns hold labels, as label_1 and label_2 do: the others would be lost."""
    alike = [name for name in names if plain(name).rstrip("0123456789") in LABEL_NAMES]
    if len(alike) > 1 and any(plain(name)[-1] in "0123456789" for name in alike):
        raise UserError(
            f"{table.where(table.rows[0][0])}: found several columns of labels ({', '.join(alike[:8])}); "
            f"--labels-column '{','.join(alike)}' joins them, --labels-column '{alike[0]}' takes one"
        )


def _refuse_numbers(table: Table, name: str | None, words: set[str]) -> None:
    """UserError where all that a column of labels holds is 1 and 0: names of classes, or one class without its name."""
    if words & _NUMBERS and words <= {*_NUMBERS, ""}:
        found = ", ".join(sorted(words - {""}))
        where = "the column of labels" if name is None else f"column '{name}'"
        named = f"--classes {','.join(sorted(words - {''}))}" if name is None else f"--labels-column '{name}'"
        called = "a header that names the class" if name is None else "call the column as its class"
        raise UserError(
            f"{table.where(table.rows[0][0])}: found nothing but {found} in {where}; {named} if these are names of "
            f"classes, else {'add ' if name is None else ''}{called}"
        )


def _beside_labels(
    table: Table, head: list[str], labels: tuple[int, ...], rest: list[int], rows: list[tuple[int, list[str]]]
) -> list[str]:
    """What is said of the other columns. UserError where one could be a class, too."""
    shown = ",".join(head[c] for c in labels)
    for c in rest:
        if plain(head[c]) not in IMAGE_NAMES and _all_marks(c, rows) and any(row[c] for _, row in rows):
            raise UserError(
                f"{table.where(table.rows[0][0])}: found '{head[c]}', which could be a class, beside the labels of "
                f"'{shown}', expected one form; --ignore-column '{head[c]}' or '{shown}' leaves one out"
            )
    unused = [f"'{head[c]}'" for c in rest]
    return [f"not used beside '{shown}': {counted(len(unused), 'column')} {', '.join(unused)}"] if unused else []


def _unique(table: Table, head: list[str], classes: list[int]) -> dict[str, int]:
    require_classes(tuple(head[c] for c in classes), table.where(table.rows[0][0]))
    return {head[c]: c for c in classes}
