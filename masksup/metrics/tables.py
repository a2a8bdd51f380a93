"""The summary of an evaluation on a terminal."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from masksup.metrics.summary import THRESHOLD_SCORES, TOP


def headline(summary: dict[str, Any]) -> str:
    """One line: the mAP and what it means, of which protocol."""
    protocol = summary["protocol"]
    parts = [
        f"{protocol['ap_rule']} AP",
        f"{summary['images']} images",
        f"{summary['scored_classes']} of {summary['classes']} classes",
        f"{summary['ignored_pairs']} pairs ignored",
    ]
    if protocol["compat"] != "none":
        parts.append(f"rules of the original {protocol['compat']} code")
    return f"mAP {_shown(summary['mAP'])} ({', '.join(parts)})"


def tables(summary: dict[str, Any], width: int = 100) -> list[Table]:
    """Two rich tables of `score`'s result, at most `width` characters wide where a class name allows it.

    The first holds the threshold scores, the second AP and the number of positives of each class, reading down
    the columns. Print `headline` above them: it says by which protocol.
    """
    overall = Table()
    overall.add_column("")
    for key in THRESHOLD_SCORES:
        overall.add_column(key, justify="right", no_wrap=True)
    threshold = summary["protocol"]["threshold"]
    overall.add_row(f"score >= {threshold:g}", *(_shown(summary[key]) for key in THRESHOLD_SCORES))
    overall.add_row(f"and in the top {TOP}", *(_shown(summary[f"top{TOP}"][key]) for key in THRESHOLD_SCORES))
    return [overall, _per_class(summary, width)]


def _per_class(summary: dict[str, Any], width: int) -> Table:
    names = list(summary["AP"])
    name_width = min(max(map(len, [*names, "class"])), 20)
    count_width = max(len(str(count)) for count in [*summary["positives"].values(), "pos."])
    # Three cells of a class and the frame and padding rich puts around them.
    columns = max(1, (width - 1) // (name_width + len("100.00") + count_width + 9))
    rows = -(-len(names) // columns)
    table = Table(title="AP of each class in percent, and its positives", title_justify="left")
    for _ in range(-(-len(names) // rows)):
        table.add_column("class", overflow="ellipsis", no_wrap=True, max_width=name_width)
        table.add_column("AP", justify="right", no_wrap=True)
        table.add_column("pos.", justify="right", style="dim", no_wrap=True)
    for row in range(rows):
        cells = []
        for name in names[row::rows]:
            cells += [escape(name), _shown(summary["AP"][name]), str(summary["positives"][name])]
        table.add_row(*cells)
    return table


def _shown(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"
