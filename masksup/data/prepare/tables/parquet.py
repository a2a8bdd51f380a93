"""A Parquet file -> the same rows of cells as a text table has."""

import json
from pathlib import Path
from typing import Any

from masksup.base.files import refuse_special
from masksup.base.words import reason
from masksup.errors import UserError


def read_parquet(file: Path) -> list[tuple[int, list[str]]]:
    """Header and rows, numbered from 1. UserError where pyarrow is missing or the file is no Parquet."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"{file}: Parquet needs pyarrow, which is not installed; pip install 'masksup[parquet]', or save it as CSV"
        ) from None
    try:
        refuse_special(file)
        columns: dict[str, list[Any]] = parquet.read_table(file).to_pydict()
    except UserError:
        raise
    except Exception as error:  # pyarrow has errors of its own for each kind of damage
        raise UserError(f"{file}: cannot be read ({reason(error)}), expected a Parquet table") from None
    names = [name for name in columns if not name.startswith("__index_level_")]
    rows = zip(*(columns[name] for name in names))
    cells = [
        (line, [_cell(file, line, name, value) for name, value in zip(names, row)]) for line, row in enumerate(rows, 1)
    ]
    return [(0, [name.strip() for name in names]), *(row for row in cells if any(row[1]))]


def _cell(file: Path, row: int, name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return json.dumps([str(item) for item in value if item is not None], ensure_ascii=False)
    if isinstance(value, bytes | dict):
        raise UserError(
            f"{file}, row {row}: found {type(value).__name__} in column '{name}', expected text or numbers; write the "
            "images to files first, and their names to the table"
        )
    return str(value).strip()
