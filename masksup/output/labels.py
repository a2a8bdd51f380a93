"""Labelled images as lines, CSV and JSON: what `masksup predict` and `masksup-run` write alike; without torch."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.csv_text import as_csv
from masksup.base.files import as_json, refuse_unwritable_file, write_atomically
from masksup.base.words import counted, one_line
from masksup.data.url import Source
from masksup.decisions.decisions import Decisions
from masksup.errors import UserError

Row = tuple[Source, NDArray[np.float64]]


def check_out(out: Path | None) -> None:
    """UserError if all scores cannot be written there."""
    if out is not None and out.suffix not in (".csv", ".json"):
        raise UserError(f"--out: found '{out.name}', expected a name that ends in .csv or .json")
    if out is not None:
        refuse_unwritable_file("--out", out)


def print_labels(file: Source, scores_C: NDArray[np.float64], decisions: Decisions) -> bool:
    """Print an image's line. False as of `print_line`. A name that holds a comma stands in quotation marks."""
    names = [quoted(one_line(name)) for name in decisions.names(scores_C)]
    return print_line(f"{one_line(str(file))} prediction: {','.join(names) or _nothing(scores_C, decisions)}")


def _nothing(scores_C: NDArray[np.float64], decisions: Decisions) -> str:
    """What stands in the place of labels where no class reaches its threshold."""
    highest = int(np.argmax(scores_C))
    shared = len(set(decisions.thresholds)) == 1
    bound = f"above {decisions.thresholds[0]:g}" if shared else "above its threshold"
    return f"(none {bound}; highest: {quoted(one_line(decisions.classes[highest]))} {scores_C[highest]:.2f})"


def quoted(name: str) -> str:
    """A class name as one of a list with commas, by the rules of CSV."""
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name


def print_line(line: str) -> bool:
    """Print to standard output. False once the reader of a pipe, such as head, has left; files are written still."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        return False
    return True


def tell_unlabelled(rows: list[Row], decisions: Decisions, out: Path | None) -> None:
    """Say of how many images nothing was predicted, and what helps beside `out`, to which all scores are written."""
    empty = sum(not decisions.predicted(scores_C).any() for _, scores_C in rows)
    if empty:
        others = "masksup calibrate fits thresholds, and --out writes all scores"
        logging.getLogger("masksup").warning(
            f"no class reaches its threshold in {empty} of {counted(len(rows), 'image')}: masksup predict "
            f"--threshold P sets a lower one, {others if out is None else 'and masksup calibrate fits thresholds'}"
        )


def write_scores(
    out: Path, rows: list[Row], decisions: Decisions, facts: dict[str, Any], *, raw_csv: bool = False
) -> None:
    """All calibrated probabilities to a .csv (`raw_csv`: as in `as_csv`) or .json; `facts` say in the latter what gave
    them."""
    if out.suffix == ".json":
        write_atomically(out, _as_json(rows, decisions, facts))
        return
    table = [[str(file), *(f"{score:.6f}" for score in scores_C)] for file, scores_C in rows]
    write_atomically(out, as_csv([["image", *decisions.classes], *table], raw=raw_csv))


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
