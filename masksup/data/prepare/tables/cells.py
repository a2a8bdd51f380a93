"""A table of any kind -> rows of cells: which letters, which delimiter, and what of it is no row."""

import re
from csv import Error, reader
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from masksup.base.files import read_regular
from masksup.data.prepare.tables.words import IMAGE_NAMES, looks_like_image, plain
from masksup.errors import UserError

_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_NO_TABLES = {
    b"PK\x03\x04": "an Excel or ZIP file", b"\xd0\xcf\x11\xe0": "an Excel file", b"\x1f\x8b": "a gzip file",
    b'{"': "JSON (of COCO, `prepare coco` reads it)", b'[{"': "JSON", b"<?xml": "XML", b"SQLite": "a data base",
}  # fmt: skip
_AFTER_QUOTE = re.compile(r'"[ \t]+(?=[,;\t]|$)', re.MULTILINE)
_DELIMITERS = ((",", ";", "\t"), ("|",), (" ",))  # those that names hold, too, come after the others


@dataclass(frozen=True)
class Table:
    """Rows that hold anything, each with its line; blanks around a cell are gone."""

    file: Path
    rows: list[tuple[int, list[str]]]
    delimiter: str | None = None  # None: the file has cells of its own, as Parquet does

    def where(self, line: int) -> str:
        """For messages: the file, and where in it."""
        return f"{self.file}, {'line' if self.delimiter else 'row'} {line}"


def read_table(file: Path, encoding: str | None = None) -> Table:
    """The rows of a table of commas, semicolons, tabs, bars or blanks, or of a Parquet file. Comments, and headers that
    stand again where tables were joined, are left out. UserError where it is malformed.

    `encoding`: of the letters; None: UTF-8, or UTF-16 where the file says so.
    """
    if file.suffix.casefold() in (".parquet", ".pq"):
        from masksup.data.prepare.tables.parquet import read_parquet

        return Table(file, read_parquet(file))
    text = table_text(file, encoding)
    delimiter = _delimiter_of(text)
    rows = [(line, cells) for line, cells in _rows(file, text, delimiter) if any(cells)]
    if rows and rows[0][1][0].casefold().startswith("sep="):  # for Excel
        rows = rows[1:]
    rows = _without_comments(rows)
    if not rows:
        raise UserError(f"{file}: found an empty file, expected rows of image and labels")
    head = rows[0][1]
    if any(map(_known, head)) and not any(map(looks_like_image, head)):
        rows[1:] = [row for row in rows[1:] if row[1] != head]
    return Table(file, rows, delimiter)


def table_text(file: Path, encoding: str | None = None) -> str:
    """The text of a table. UserError if it is missing, or of other letters than `encoding` or, by default, UTF-8."""
    try:
        data = read_regular(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}, expected a readable text file") from error
    if kind := next((kind for mark, kind in _NO_TABLES.items() if data.lstrip().startswith(mark)), None):
        raise UserError(f'{file}: found {kind}, expected a table; save it as "CSV UTF-8"')
    usual = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding or usual)
    except LookupError:
        raise UserError(f"--encoding: found the unknown '{encoding}', expected one such as latin-1 or cp1252") from None
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        raise UserError(
            f"{file}: found bytes that are no {(encoding or usual).upper()} (at {at}), expected text; save the table "
            'as "CSV UTF-8", or say what it is, such as --encoding latin-1'
        ) from error
    if "\0" in text:
        raise UserError(f'{file}: found NUL bytes, expected text; save the table as "CSV UTF-8"')
    return text.removeprefix("\ufeff")


def _delimiter_of(text: str) -> str:
    """The one that cuts a known header or an image out of the first line; of several, the one with most cells."""
    lines = [line for line in text.splitlines() if line.strip(' \t,;"')]
    lines = [line for line in lines if not line.strip('"').casefold().startswith("sep=")]
    first = next((line for line in lines if not line.startswith("#")), "")
    if lines and lines[0].startswith("#") and _cut(lines[0].lstrip("# "))[1][0]:
        first = lines[0].lstrip("# ")
    return _cut(first)[0]


def _cut(line: str) -> tuple[str, tuple[bool, int]]:
    """The best delimiter, whether it cuts out a name that is known, and how many cells it makes."""
    best, most = ",", (False, 0)
    for group in _DELIMITERS:
        for delimiter in group:
            try:
                cells = [cell.strip() for cell in next(reader([line], delimiter=delimiter, skipinitialspace=True), [])]
            except Error:
                continue
            known = any(map(_known, cells))
            if len(cells) > 1 and (known, len(cells)) > most and (known or delimiter != " "):
                best, most = delimiter, (known, len(cells))
        if most[0]:
            break
    return best, most


def _known(cell: str) -> bool:
    return plain(cell) in IMAGE_NAMES or looks_like_image(cell)


def _without_comments(rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Lines that begin with '#' go: above the header all of them but the header itself, below it those of one cell."""
    at = 0
    while at < len(rows) and rows[at][1][0].startswith("#") and not looks_like_image(rows[at][1][0]):
        line, cells = rows[at]
        bare = [cells[0].lstrip("# "), *cells[1:]]
        if len(cells) > 1 and any(map(_known, bare)):
            rows[at] = line, bare
            break
        at += 1
    return [row for row in rows[at:] if len(row[1]) > 1 or not row[1][0].startswith("#")]


def _rows(file: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    if delimiter == " ":
        text = "\n".join(line.strip() for line in text.splitlines())
    for attempt in (text, _AFTER_QUOTE.sub('"', text)):
        table = reader(StringIO(attempt, newline=""), strict=True, delimiter=delimiter, skipinitialspace=True)
        try:
            return [(table.line_num, [cell.strip() for cell in row]) for row in table]
        except Error as error:
            wrong = UserError(f"{file}, line {table.line_num}: malformed CSV ({error})")
    raise wrong
