"""A table whose rows belong to several splits, as one of its columns says -> a table for each of them."""

from collections import Counter
from collections.abc import Collection

from masksup.data.prepare.options import SPLIT_NAME, SPLIT_RULE
from masksup.data.prepare.tables.cells import Table
from masksup.data.prepare.tables.classes import several
from masksup.data.prepare.tables.words import (
    BELONGING,
    SPLITTING,
    VALUES,
    looks_like_image,
    plain,
    value_word,
)
from masksup.errors import UserError, nearest


def divided(tables: dict[str, Table], column: str | None, ignored: Collection[str] = ()) -> dict[str, Table]:
    """The tables, or what `column` makes of the only one. UserError where a column parts rows and nobody says so."""
    if column is None:
        for table in tables.values():
            _refuse_parts(table, ignored)
        return tables
    if len(tables) > 1:
        raise UserError(f"--split-column: found {len(tables)} tables ({', '.join(tables)}), expected one of all rows")
    (table,) = tables.values()
    line, head = table.rows[0]
    if column not in head:
        raise UserError(f"{table.where(line)}: --split-column: found no '{column}'; {nearest(column, head)}")
    at = head.index(column)
    parts: dict[str, list[tuple[int, list[str]]]] = {}
    for number, row in table.rows[1:]:
        name = _named(column, row[at]) if at < len(row) else ""
        if not SPLIT_NAME.fullmatch(name):
            raise UserError(
                f"{table.where(number)}: found the split '{name[:60]}' in column '{column}', expected {SPLIT_RULE}"
            )
        parts.setdefault(name, []).append((number, row[:at] + row[at + 1 :]))
    bare = head[:at] + head[at + 1 :]
    return {name: Table(table.file, [(line, bare), *rows], table.delimiter) for name, rows in parts.items()}


def _named(column: str, cell: str) -> str:
    """The split that a cell names: itself, or of a column such as is_valid what its yes and no mean."""
    answer = VALUES.get(value_word(cell))
    names = BELONGING.get(plain(column))
    return names[answer] if names and answer in (0, 1) else cell


def _refuse_parts(table: Table, ignored: Collection[str]) -> None:
    line, head = table.rows[0]
    if any(map(looks_like_image, head)):
        return
    for c, name in enumerate(head):
        if name in several(ignored, head) or plain(name) not in {*SPLITTING, *BELONGING}:
            continue
        counts = Counter(_named(name, row[c]) for _, row in table.rows[1:] if c < len(row) and row[c])
        # A column of 1 and 0 under such a name may as well be a class; that is said elsewhere.
        marks = plain(name) in SPLITTING and all(value_word(value) in {"0", "1", "-1"} for value in counts)
        if len(counts) > 1 and not marks:
            shown = ", ".join(f"{value[:20]} ({count:,})" for value, count in counts.most_common(4))
            raise UserError(
                f"{table.where(line)}: found rows of several splits in column '{name}' ({shown}); --split-column "
                f"'{name}' makes a split of each, --ignore-column '{name}' takes all rows as one"
            )
