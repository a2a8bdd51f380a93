"""What `prepare` found, as tables and warnings for the terminal."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from masksup.base.fitted import fitted
from masksup.base.words import MANY, SHOWN, counted, listed
from masksup.data.labels import counts_of, present
from masksup.data.prepare.twins import between
from masksup.data.write_index import IndexContent

_NAME_WIDTH = 18
_MIN_ROWS = 10


@dataclass(frozen=True)
class _Counts:
    """Of the labels of one split."""

    positives_C: NDArray[np.int64]
    ignored_C: NDArray[np.int64]
    labelled: int
    """Images with a positive."""

    @classmethod
    def of(cls, content: IndexContent) -> "_Counts":
        sample_P, class_P = present(content.labels_NC)
        positives_C = np.bincount(class_P, minlength=len(content.classes))
        labelled = np.unique(content.sample_image_N[sample_P])
        return cls(positives_C, counts_of(content.labels_NC, -1), len(labelled))

    @property
    def ignored(self) -> int:
        return int(self.ignored_C.sum())


def print_table(contents: list[IndexContent]) -> None:
    """Print a table of all splits of one data set and the warnings, one line each however long, to standard output."""
    counts = [_Counts.of(content) for content in contents]
    console = Console()
    for table in (_sizes(contents, counts), _positives(contents, counts, console.width)):
        console.print(fitted(table, console.width))
    for line in _warnings(contents, counts):
        console.print(Text(f"warning: {line}", style="yellow"), soft_wrap=True)


def to_json(contents: list[IndexContent], out: Path) -> dict[str, Any]:
    """The same for programs: every split with its folder below `out`, and the positives of every class."""
    counts, classes = [_Counts.of(content) for content in contents], contents[0].classes
    splits = [
        {
            "split": content.split, "index": str(out / content.split), **_numbers(content, count),
            "classes": dict(zip(classes, count.positives_C.tolist())),
        }
        for content, count in zip(contents, counts)
    ]  # fmt: skip
    return {"data": contents[0].name, "splits": splits, "warnings": _warnings(contents, counts)}


def _numbers(content: IndexContent, count: _Counts) -> dict[str, int]:
    images = len(content.image_names)
    return {
        "images": images, "samples": len(content.ids), "boxes": len(content.boxes_M4),
        "positives": int(count.positives_C.sum()), "ignored": count.ignored, "unlabelled": images - count.labelled,
    }  # fmt: skip


def _warnings(contents: list[IndexContent], counts: list[_Counts]) -> list[str]:
    """What the preparer noticed, classes without positives or without negatives, and images shared by splits."""
    lines = []
    for content, count in zip(contents, counts):
        lines += [f"{content.split}: {text}" for text in content.warnings]
        silent = [content.classes[c] for c in np.flatnonzero(count.positives_C == 0)]
        if silent and count.ignored < content.labels_NC.size:
            lines.append(f"{content.split}: {counted(len(silent), 'class')} without positives: {listed(silent)}")
        without_C = (count.positives_C > 0) & (count.positives_C + count.ignored_C == len(content.ids))
        if without_C.any():
            full = [content.classes[c] for c in np.flatnonzero(without_C)]
            lines.append(f"{content.split}: {counted(len(full), 'class')} without negatives: {listed(full)}")
    for first, second in combinations(contents, 2):
        lines += between(first, second)
    return lines


def _sizes(contents: list[IndexContent], counts: list[_Counts]) -> Table:
    sizes = Table(
        title=f"{contents[0].name}: {counted(len(contents[0].classes), 'class')}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    sizes.add_column("split")
    for head in ("images", "samples", "boxes", "positives", "ignored", "unlabelled"):
        sizes.add_column(head, justify="right")
    for content, count in zip(contents, counts):
        sizes.add_row(Text(content.split), *(f"{cell:,}" for cell in _numbers(content, count).values()))
    return sizes


def _positives(contents: list[IndexContent], counts: list[_Counts], width: int) -> Table:
    """Classes run down, then on to the next group of columns, as many as `width` allows."""
    chosen, title = _chosen(counts)
    classes = [contents[0].classes[c] for c in chosen]
    columns_SC = [[f"{number:,}" for number in count.positives_C[chosen]] for count in counts]
    widths = [min(_NAME_WIDTH, max(map(cell_len, (*classes, "class"))))]
    widths += [max(map(cell_len, (one.split, *numbers))) for one, numbers in zip(contents, columns_SC)]
    groups = max(1, min((width - 1) // sum(cell + 3 for cell in widths), -(-len(classes) // _MIN_ROWS)))
    rows = -(-len(classes) // groups)
    positive = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    starts = range(0, len(classes), rows)
    for _ in starts:
        positive.add_column("class", overflow="ellipsis", no_wrap=True, max_width=_NAME_WIDTH)
        for content in contents:
            positive.add_column(Text(content.split), justify="right", no_wrap=True)
    for row in range(rows):
        cells: list[RenderableType] = []
        for number in range(row, len(starts) * rows, rows):
            inside = number < len(classes)
            cells.append(Text(classes[number] if inside else ""))
            cells += [numbers[number] if inside else "" for numbers in columns_SC]
        positive.add_row(*cells)
    return positive


def _chosen(counts: list[_Counts]) -> tuple[NDArray[np.int64], str]:
    """The numbers of the classes to show, and what they are: all, or the first and those with fewest positives."""
    total_C = np.sum([count.positives_C for count in counts], axis=0)
    if len(total_C) <= MANY:
        return np.arange(len(total_C)), "positive samples per class"
    rarest = SHOWN + np.argsort(total_C[SHOWN:], kind="stable")[:SHOWN]
    title = (
        f"positive samples of the first {SHOWN} and the rarest {SHOWN} of {counted(len(total_C), 'class')} (all: "
        "the index)"
    )
    return np.concatenate([np.arange(SHOWN), rarest]), title
