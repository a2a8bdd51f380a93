"""Labelled images as lines, CSV and JSON: what `masksup predict` and `masksup-run` write alike; without torch."""

import csv
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.decisions import Decisions
from masksup.errors import UserError
from masksup.runtime.files import as_json, refuse_unwritable_file, write_atomically

Row = tuple[Path, NDArray[np.float64]]


def check_out(out: Path | None) -> None:
    """UserError if all scores cannot be written there."""
    if out is not None and out.suffix not in (".csv", ".json"):
        raise UserError(f"--out: found '{out.name}', expected a name that ends in .csv or .json")
    if out is not None:
        refuse_unwritable_file("--out", out)


def print_labels(file: Path, names: list[str]) -> bool:
    """Print an image's line. False as of `print_line`."""
    return print_line(f"{one_line(str(file))} prediction: {','.join(map(one_line, names))}")


def print_line(line: str) -> bool:
    """Print to standard output. False once the reader of a pipe, such as head, has left; files are written still."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        return False
    return True


# Controls with line breaks and tabs, what separates lines and paragraphs, and the halves that stand for bytes of a
# file name that are no UTF-8, which cannot be printed at all.
_UNPRINTED = {"Cc", "Zl", "Zp", "Cs"}


def one_line(text: str) -> str:
    """`text` as it is shown within a line: control characters as in Python (\\n, \\t, \\x1b), the backslash as two."""
    return "".join(ascii(c)[1:-1] if c == "\\" or unicodedata.category(c) in _UNPRINTED else c for c in text)


def write_scores(out: Path, rows: list[Row], decisions: Decisions, facts: dict[str, Any]) -> None:
    """All calibrated probabilities to a .csv or .json; `facts` say in the latter what gave them."""
    write_atomically(out, _as_csv(rows, decisions) if out.suffix == ".csv" else _as_json(rows, decisions, facts))


def _as_csv(rows: list[Row], decisions: Decisions) -> str:
    text = io.StringIO()
    _write_row(text, ["image", *decisions.classes])
    for file, scores_C in rows:
        _write_row(text, [str(file), *(f"{score:.6f}" for score in scores_C)])
    return text.getvalue()


def _write_row(text: io.StringIO, cells: Sequence[str]) -> None:
    # With lines that end in "\n" the module leaves a bare "\r" unquoted, at which it ends a row on reading.
    quote_all = any("\r" in cell for cell in cells)
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
    writer.writerow(cells)


def _as_json(rows: list[Row], decisions: Decisions, facts: dict[str, Any]) -> str:
    images = [
        {
            "image": str(file),
            "labels": decisions.names(scores_C),
            "scores": {name: float(score) for name, score in zip(decisions.classes, scores_C)},
        }
        for file, scores_C in rows
    ]
    how = {
        "aim": decisions.aim, "calibration": decisions.calibration.kind,
        "thresholds": dict(zip(decisions.classes, decisions.thresholds)),
    }  # fmt: skip
    return as_json({**facts, **how, "images": images}, indent=1) + "\n"
