"""Tables as CSV that a spreadsheet opens as what they are; without torch."""

import csv
import io
from collections.abc import Iterable, Sequence

# With one of these at its start a cell is a formula to a spreadsheet, which may run a program (OWASP, CSV injection).
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


RAW_HELP = "CSV: names as they are; without it a name that a spreadsheet would compute as a formula gets a ' before it"


def as_csv(rows: Iterable[Sequence[object]], *, raw: bool = False) -> str:
    """Lines that end in "\\n". A text that would be a formula gets a `'` before it, unless `raw`."""
    text = io.StringIO()
    for row in rows:
        cells = [cell if raw or not isinstance(cell, str) else harmless(cell) for cell in row]
        # With such lines the module leaves a bare "\r" unquoted, at which it ends a row on reading.
        quote_all = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
        writer.writerow(cells)
    return text.getvalue()


def harmless(cell: str) -> str:
    """`cell` as a spreadsheet shows it and does not compute it."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
