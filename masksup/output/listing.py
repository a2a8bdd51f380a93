"""A list for people, or the same as JSON: what the commands print that only look things up."""

from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import Any

from masksup.base.json_option import given_as_json

Row = Mapping[str, Any]
_READABLE = 40  # characters that a column of prose needs at least


def show(rows: Sequence[Row], into: str | None, wide: str = "", prose: bool = False) -> None:
    """Print the rows, which share their keys, or write them where `--json` says so: as a JSON array of objects.

    wide: the column that takes what is left of the terminal. Where the terminal is too narrow for a table, each row is
    a paragraph. Where no terminal reads, each row is a line, or with `prose` in that column a paragraph.
    """
    from masksup.base.log import console

    with given_as_json(into) as give:
        give(list(rows))
    if into is not None or not rows:
        return
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(rows[0], *cells)]
    least = sum(min(width, _READABLE) if name == wide else width for name, width in zip(rows[0], widths))
    if prose if not console.is_terminal else wide and least + 3 * len(widths) + 1 > console.width:
        print("\n".join(_paragraph(list(rows[0]), line, wide, console.width) for line in cells))
    elif console.is_terminal:
        _print_table(list(rows[0]), cells, wide)
    else:
        for line in (list(rows[0]), *cells):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def _paragraph(names: list[str], cells: list[str], wide: str, width: int) -> str:
    """The first cell, then the others with their headings, then the wide one, each on lines that are set in."""
    found = dict(zip(names, cells))
    first, text = found.pop(names[0]), found.pop(wide, "")
    short = "; ".join(f"{name}: {cell}" for name, cell in found.items() if cell)
    set_in = partial(fill, width=width, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
    return "\n".join([first, *(set_in(part, break_on_hyphens=False) for part in (text, short) if part)])


def _print_table(names: list[str], cells: list[list[str]], wide: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from masksup.base.log import console

    table = Table()
    for name in names:
        table.add_column(name, overflow="fold", ratio=1 if name == wide else None)
    for line in cells:
        table.add_row(*map(Text, line))
    console.print(table, soft_wrap=False)
