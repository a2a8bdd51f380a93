"""What `prepare` found, as tables and warnings for the terminal."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from masksup.base.words import counted
from masksup.data.write_index import IndexContent

_NAME_WIDTH = 18
_MIN_ROWS = 10


def table(contents: list[IndexContent], width: int) -> RenderableType:
    """All splits of one data set: sizes, positives per class in as many columns as `width` allows."""
    return Group(_sizes(contents), _positives(contents, width))


def print_table(contents: list[IndexContent]) -> None:
    """Print `table` and the warnings, one line each however long, to standard output."""
    console = Console()
    console.print(table(contents, console.width))
    for line in warnings_of(contents):
        console.print(Text(f"warning: {line}", style="yellow"), soft_wrap=True)


def warnings_of(contents: list[IndexContent]) -> list[str]:
    """What the preparer noticed, classes without positives, and images shared by splits."""
    lines = []
    for content in contents:
        lines += [f"{content.split}: {text}" for text in content.warnings]
        silent = [name for name, positives in zip(content.classes, _positives_C(content)) if positives == 0]
        if silent and (content.labels_NC != -1).any():
            lines.append(f"{content.split}: {counted(len(silent), 'class')} without positives: {', '.join(silent)}")
    for first, second in combinations(contents, 2):
        shared = _shared_files(first, second)
        if shared:
            lines.append(f"{first.split} and {second.split} share {counted(shared, 'image')} (equal bytes)")
    return lines


def _positives_C(content: IndexContent) -> NDArray[np.int64]:
    return np.asarray((content.labels_NC == 1).sum(axis=0), np.int64)


def _sizes(contents: list[IndexContent]) -> Table:
    sizes = Table(
        title=f"{contents[0].name}: {counted(len(contents[0].classes), 'class')}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    sizes.add_column("split")
    for head in ("images", "samples", "boxes", "positive labels", "ignored labels", "without any label"):
        sizes.add_column(head, justify="right")
    for content in contents:
        labels_NC = content.labels_NC
        counts = (
            len(content.image_names), len(content.ids), len(content.boxes_M4), int((labels_NC == 1).sum()),
            int((labels_NC == -1).sum()), _images_without_label(content),
        )  # fmt: skip
        sizes.add_row(Text(content.split), *(f"{count:,}" for count in counts))
    return sizes


def _images_without_label(content: IndexContent) -> int:
    labelled = np.zeros(len(content.image_names), bool)
    labelled[content.sample_image_N[(content.labels_NC == 1).any(axis=1)]] = True
    return int((~labelled).sum())


def _positives(contents: list[IndexContent], width: int) -> Table:
    """Classes run down, then on to the next group of columns."""
    classes = contents[0].classes
    columns_SC = [[f"{count:,}" for count in _positives_C(content)] for content in contents]
    widths = [min(_NAME_WIDTH, max(map(len, classes)))]
    widths += [max(map(len, (one.split, *counts))) for one, counts in zip(contents, columns_SC)]
    groups = max(1, min((width - 1) // sum(cell + 3 for cell in widths), -(-len(classes) // _MIN_ROWS)))
    rows = -(-len(classes) // groups)
    positive = Table(title="positive samples per class", title_justify="left", box=box.SIMPLE_HEAD)
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
            cells += [counts[number] if inside else "" for counts in columns_SC]
        positive.add_row(*cells)
    return positive


def _shared_files(first: IndexContent, second: IndexContent) -> int:
    """Images in both splits by their bytes; 0 where one split is a part of the other by name (train, trainval)."""
    hashes = [{row.tobytes() for row in content.file_hash_I16} for content in (first, second)]
    shared = len(hashes[0] & hashes[1])
    small, large = sorted((first, second), key=lambda content: len(content.image_names))
    part = small.split in large.split and set(small.image_names) <= set(large.image_names)
    return 0 if part else shared
