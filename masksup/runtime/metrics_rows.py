"""The rows of a `metrics.jsonl`, read without torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from masksup.base.files import read_regular
from masksup.base.json_lines import parse_line, split_lines
from masksup.base.log import log


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`. What a crash cut off or damaged is left out, and named."""
    rows, damaged = sorted_out(path)
    if damaged:
        log.warning(f"{path}: {in_words(damaged)} damaged, left out")
    return rows


def sorted_out(path: Path) -> tuple[list[dict[str, Any]], dict[int, bytes]]:
    """The rows of a record, and what is none, by number of line."""
    rows, damaged = [], {}
    for number, line in enumerate(split_lines(read_regular(path)) if path.exists() else [], 1):
        row = parse_line(line)
        if row is not None and isinstance(row.get("kind"), str) and type(row.get("step")) is int:
            rows.append(row)
        else:
            damaged[number] = line
    return rows, damaged


def in_words(numbers: Iterable[int]) -> str:
    """Numbers of lines as they are told: "line 3 is", "lines 1, 2 are"."""
    shown = [str(number) for number in numbers]
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return f"{'line' if len(shown) == 1 else 'lines'} {', '.join(shown[:8])}{more} {'is' if len(shown) == 1 else 'are'}"
