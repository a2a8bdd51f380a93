"""A calibration on a terminal."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from masksup.base.fitted import fitted
from masksup.base.log import console, log
from masksup.base.words import MANY, SHOWN, counted, listed
from masksup.calibration.cross_validation import RULES


def show(facts: dict[str, Any]) -> None:
    """Print what the rules are worth, calibration before and after, and the thresholds."""
    for table in (_rules(facts), _calibration(facts), _thresholds(facts)):
        if table is not None:
            console.print(fitted(table, console.width), soft_wrap=False)
    for line in remarks(facts):
        log.info(line)


def _rules(facts: dict[str, Any]) -> Table:
    title = f"Aim {facts['aim']}: scores of samples held out, in {facts['folds']} folds"
    table = Table(title=title, title_justify="left")
    table.add_column("thresholds", no_wrap=True)
    for name in ("F1", "(in)", "OF1", "(in)", "OP", "OR", "labels"):
        table.add_column(name, justify="right", no_wrap=True, style="dim" if name == "(in)" else None)
    for rule, row in facts["rules"].items():
        held, inside = row["held_out"], row["in_sample"]
        cells = [_percent(scores[key]) for key in ("F1", "OF1") for scores in (held, inside)]
        cells += [_percent(held[key]) for key in ("OP", "OR")]
        kept = " (kept)" if rule == facts["rule"] else ""
        table.add_row(f"{rule}{kept}", *cells, f"{held['labels']:.2f}")
    table.caption = "F1: mean over the classes with positives; (in): in-sample; labels: an image"
    table.caption_justify = "left"
    return table


def _calibration(facts: dict[str, Any]) -> Table:
    table = Table(title=f"Calibration, {facts['method']}, in percent", title_justify="left")
    for name in ("", "ECE", "ECE of a class", "Brier"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    names = {"before": "sigmoid", "after": "calibrated, held out", "after_in_sample": "calibrated, in-sample"}
    for key, name in names.items():
        row = facts["calibration"][key]
        table.add_row(name, *(_percent(_times(row[score])) for score in ("ECE", "class_ECE", "brier")))
    return table


def _thresholds(facts: dict[str, Any]) -> Table | None:
    rows = {name: row for name, row in facts["classes"].items() if row["origin"] != "shared"}
    if not rows:
        return None
    level = facts["level"]
    title = "Thresholds of calibrated probabilities; precision and recall held out"
    if len(rows) > MANY:
        shown = _first_and_worst(rows)
        title += (
            f"; the first and the worst {SHOWN} of {counted(len(rows), 'class')} (all: calibration.json of the run)"
        )
        rows = {name: rows[name] for name in shown}
    table = Table(title=title, title_justify="left")
    for name in ("class", "threshold", f"{level} %", "", "precision", "recall", "pos."):
        table.add_column(name, justify="left" if name in ("class", "") else "right", no_wrap=True)
    for name, row in rows.items():
        bounds = "" if row["low"] is None else f"{row['low']:.3f}-{row['high']:.3f}"
        origin = "given" if row["origin"] == "given" else ""
        cells = (f"{row['threshold']:.3f}", bounds, origin, _percent(row["precision"]), _percent(row["recall"]))
        table.add_row(escape(name), *cells, str(row["positives"]))
    return table


def _first_and_worst(rows: dict[str, Any]) -> list[str]:
    """The first classes in their order, then those with the lowest product of precision and recall."""
    first = list(rows)[:SHOWN]
    others = [name for name in rows if name not in set(first)]
    worth = {name: (rows[name]["precision"] or 0) * (rows[name]["recall"] or 0) for name in others}
    return first + sorted(others, key=lambda name: worth[name])[:SHOWN]


def remarks(facts: dict[str, Any]) -> list[str]:
    """What is to be known of the fit, a line each."""
    lines = []
    sharing = [name for name, row in facts["classes"].items() if row["origin"] == "shared"]
    shared = facts["shared"]
    if sharing and shared["threshold"] is not None:
        bounds = "" if None in shared["bounds"] else " ({:.3f}-{:.3f})".format(*shared["bounds"])
        lines.append(f"threshold {shared['threshold']:.3f}{bounds} for {counted(len(sharing), 'class')} together")
    lines += _unreached(facts)
    given = [name for name, row in facts["classes"].items() if row["origin"] == "given"]
    if given:
        lines.append(f"set by hand, which the scores above do not know: {', '.join(given)}")
    without = [name for name, row in facts["classes"].items() if not row["positives"]]
    if without:
        lines.append(f"without positives, so that nothing was fitted to them: {listed(without)}")
    return lines + (_better(facts) if facts["aim"] == "f1" else [])


def _better(facts: dict[str, Any]) -> list[str]:
    """Rules that beat the kept one where they were not fitted, by the mean over classes and over all pairs."""
    held = {rule: (row["held_out"]["F1"], row["held_out"]["OF1"]) for rule, row in facts["rules"].items()}
    kept = held[facts["rule"]]
    better = [rule for rule, found in held.items() if found[0] > kept[0] + 0.005 and found[1] > kept[1] + 0.005]
    if not better:
        return []
    best = max(better, key=lambda rule: held[rule])
    name = f"--rule {best}" if best in RULES else f"what nothing was fitted to ({best})"
    return [f"held out, {name} scores higher: F1 {held[best][0]:.2f}, OF1 {held[best][1]:.2f}"]


def _unreached(facts: dict[str, Any]) -> list[str]:
    """The classes, or all together, that no threshold brings to the precision."""
    lines = []
    missed = {name: row["best_precision"] for name, row in facts["classes"].items()}
    unreached = {name: best for name, best in missed.items() if best is not None}
    for name, best in list(unreached.items())[:SHOWN]:
        lines.append(f"{name}: no threshold reaches {facts['aim']} (best {best:.1f} %), so it takes the shared one")
    if len(unreached) > SHOWN:
        more = counted(len(unreached) - SHOWN, "other class")
        lines.append(f"the same holds for {more} (best_precision in calibration.json of the run)")
    if not facts["shared"]["reached"] and any(row["origin"] == "shared" for row in facts["classes"].values()):
        lines.append(
            f"no shared threshold reaches {facts['aim']}: it is the one of the highest precision, which is lower"
        )
    return lines


def _times(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _percent(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"
