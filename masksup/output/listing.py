"""A list for people, or the same as JSON: what the commands print that only look things up."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from masksup.base import json_option

Row = Mapping[str, Any]


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json [FILE]`: the rows as a JSON array of objects, whose keys are the headings of the table."""
    json_option.add_json(parser, "the rows")


def show(rows: Sequence[Row], into: str | None, wide: str = "") -> None:
    """Print the rows, which share their keys, or write them as JSON where `--json` says so.

    wide: the column that takes what is left of the terminal. Where no terminal reads, each row is a line.
    """
    with json_option.given_as_json(into) as give:
        give(list(rows))
    if into is None:
        _print_table(rows, wide)


def _print_table(rows: Sequence[Row], wide: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from masksup.base.log import console

    if not rows:
        return
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    if not console.is_terminal:
        widths = [max(map(len, column)) for column in zip(rows[0], *cells)]
        for line in (list(rows[0]), *cells):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip(), file=sys.stdout)
        return
    table = Table()
    for name in rows[0]:
        table.add_column(name, overflow="fold", ratio=1 if name == wide else None)
    for line in cells:
        table.add_row(*map(Text, line))
    console.print(table, soft_wrap=False)
