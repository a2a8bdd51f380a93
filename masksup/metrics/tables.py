"""The summary of an evaluation on a terminal."""

from typing import Any

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

from masksup.base.words import MANY, SHOWN, counted, listed
from masksup.metrics.stratified import LEVEL, STRATUM_SCORES
from masksup.metrics.summary import COUNTED, THRESHOLD_SCORES, TOP


def headline(summary: dict[str, Any]) -> str:
    """One line: the mAP and what it means, of which protocol."""
    protocol = summary["protocol"]
    parts = [
        f"{protocol['ap_rule']} AP",
        counted(summary["images"], "image"),
        f"{summary['scored_classes']} of {counted(summary['classes'], 'class')}",
        f"{counted(summary['ignored_pairs'], 'pair')} ignored",
    ]
    if protocol["compat"] != "none":
        parts.append(f"rules of the original {protocol['compat']} code")
    if protocol["ap_computed"] == COUNTED:
        parts.append(f"AP {COUNTED}")
    if summary.get("mAP_interval"):
        parts.append(f"{LEVEL} % interval {_range(summary['mAP_interval'])}")
    area = summary.get("mAUROC")
    return f"mAP {_shown(summary['mAP'])} ({', '.join(parts)})" + (
        f"; mean AUROC {area:.2f}" if area is not None else ""
    )


def without_negatives(summary: dict[str, Any]) -> str:
    """One line: the classes that every image shows as far as is known, and what they count for."""
    names = summary["without_negatives"]
    rule = summary["protocol"]["class_without_negatives"]
    return f"{counted(len(names), 'class')} without negatives, {rule}: {listed(names)}"


def tables(summary: dict[str, Any], width: int = 100) -> list[Table]:
    """Rich tables of a summary, at most `width` characters wide where a class name allows it.

    The threshold scores; the scores under masks beside those without, and the scores by stratum, where the summary
    has them; AP and the number of positives of each class, reading down the columns. Print `headline` above them:
    it says by which protocol.
    """
    overall = Table()
    overall.add_column("")
    for key in THRESHOLD_SCORES:
        overall.add_column(key, justify="right", no_wrap=True)
    threshold = summary["protocol"]["threshold"]
    overall.add_row(f"score >= {threshold:g}", *(_shown(summary[key]) for key in THRESHOLD_SCORES))
    overall.add_row(f"and in the top {TOP}", *(_shown(summary[f"top{TOP}"][key]) for key in THRESHOLD_SCORES))
    shown = [overall]
    if summary.get("masked"):
        shown.append(_under_masks(summary))
    if summary.get("stratified"):
        shown.append(_by_stratum(summary))
    return [*shown, _per_class(summary, width)]


def _under_masks(summary: dict[str, Any]) -> Table:
    table = Table(title="The same images with a part of each hidden", title_justify="left")
    table.add_column("hidden")
    for key in ("mAP", *THRESHOLD_SCORES):
        table.add_column(key, justify="right", no_wrap=True)
    rows = {"nothing": summary}
    for level, masked in summary["masked"].items():
        least, most = masked["protocol"]["masked"]["hole_ratio"]
        rows[f"{100 * least:g}-{100 * most:g} % ({level})"] = masked
    for name, row in rows.items():
        table.add_row(name, *(_shown(row[key]) for key in ("mAP", *THRESHOLD_SCORES)))
    return table


def _by_stratum(summary: dict[str, Any]) -> Table:
    """A row a stratum, of the classes that an image shows only as such objects; behind a score its interval."""
    scores = summary["stratified"]
    rows = {"all": scores["all"]}
    for division in ("size", "occlusion"):
        rows |= scores[division]["strata"] or {}
    ranges = summary["protocol"]["intervals"]
    title = "Scores by size and occlusion of the objects" + (f", with {LEVEL} % intervals" if ranges else "")
    title += ", by the clean rules" if summary["protocol"]["compat"] != "none" else ""
    table = Table(title=title, title_justify="left")
    table.add_column("objects")
    for key in STRATUM_SCORES:
        table.add_column(key, justify="right")
    table.add_column("pos.", justify="right", style="dim", no_wrap=True)
    table.add_column("classes", justify="right", style="dim", no_wrap=True)
    for name, row in rows.items():
        cells = [
            f"{_shown(row[key])}{f'  {_range(ends):>11}' if (ends := row[f'{key}_interval']) else ''}"
            for key in STRATUM_SCORES
        ]
        table.add_row(name, *cells, str(row["positives"]), str(row["scored_classes"]))
    table.caption, table.caption_justify = _outside(scores), "left"
    return table


def _outside(scores: dict[str, Any]) -> str:
    """What became of the positive pairs that are in no row."""
    parts = []
    for division, what in (("size", "are of several sizes"), ("occlusion", "are both occluded and not")):
        group = scores[division]
        if group["strata"]:
            without = f", {group['without_boxes']} have no counted box" if group["without_boxes"] else ""
            parts.append(f"{group['mixed']} {what}{without}")
    note = ". 'Occluded' includes 'truncated'" if scores["occlusion"]["strata"] else ""
    return f"Positives only in the first row: {'; '.join(parts)}{note}."


def _range(ends: list[float]) -> str:
    return f"{ends[0]:.1f}-{ends[1]:.1f}"


def _per_class(summary: dict[str, Any], width: int) -> Table:
    names, title = list(summary["AP"]), "AP of each class in percent, and its positives"
    if len(names) > MANY:
        names, title = (
            first_and_worst(summary["AP"]),
            (
                f"AP in percent, and positives, of the first {SHOWN} and the worst {SHOWN} of "
                f"{counted(len(names), 'class')} (all: under AP in the JSON of masksup eval --json)"
            ),
        )
    name_width = min(max(map(cell_len, [*names, "class"])), 20)
    count_width = max(len(str(count)) for count in [*summary["positives"].values(), "pos."])
    # Three cells of a class and the frame and padding rich puts around them.
    columns = max(1, (width - 1) // (name_width + len("100.00") + count_width + 9))
    rows = -(-len(names) // columns)
    table = Table(title=title, title_justify="left", min_width=min(width, len(title)))
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


def first_and_worst(ap_of: dict[str, float | None]) -> list[str]:
    """The first classes in their order, then the lowest AP, lowest first."""
    first = list(ap_of)[:SHOWN]
    known = {name: ap for name, ap in ap_of.items() if ap is not None and name not in set(first)}
    return first + sorted(known, key=lambda name: known[name])[:SHOWN]


def _shown(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"
