"""Tables on narrow terminals: columns are left out from the right, and a line names them."""

from rich.console import Console, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_FEWEST = 2  # columns that stay: a name and what it is asked for
_NAME = 12  # letters of the first column that stay in one line
_UNBOUNDED = Console(width=10**4)


def fitted(table: Table, width: int, cure: str = "a wider terminal shows them") -> Group:
    """The table without the last columns for which `width` letters have no room, and a line about those.

    Cells that may be wrapped are, between words. cure: how to see what was left out. The table itself is changed.
    """
    left_out: list[str] = []
    while len(table.columns) > _FEWEST and needed(table) > width:
        left_out.insert(0, str(table.columns.pop().header))
    if not left_out:
        return Group(table)
    # Rich would wrap both to the width of what is left of the table.
    title, caption, table.title, table.caption = table.title, table.caption, None, None
    names = ", ".join(dict.fromkeys(filter(None, left_out)))
    lines = [Text(f"left out, as the terminal is narrow: {names}; {cure}", style="dim")]
    lines += [Text(str(caption), style="dim")] if caption else []
    return Group(*([Text(str(title), style="italic")] if title else []), table, *lines)


def needed(table: Table) -> int:
    """The least width, in letters, at which no number, heading or word is cut."""
    natural, least = [], []
    for number, column in enumerate(table.columns):
        cells = [_measured(cell) for cell in (column.header, *column.cells)]
        most = min(max(cell.maximum for cell in cells), column.max_width or 10**4)
        word = max(cell.minimum for cell in cells)
        natural.append(most)
        least.append(most if column.no_wrap else min(most, max(word, 0 if number else _NAME)))
    return sum(least) + _measured(table).maximum - sum(natural)


def _measured(what: object) -> Measurement:
    return Measurement.get(_UNBOUNDED, _UNBOUNDED.options, what)  # type: ignore[arg-type]
