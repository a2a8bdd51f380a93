"""What a search prints: its plan, the ladder as a table, and what the figures mean."""

import shlex
from pathlib import Path
from typing import Any

from rich.table import Table

from masksup.base.files import read_json
from masksup.config.load import load_config
from masksup.runtime.progress import duration
from masksup.selection import CHOICES
from masksup.selection.climb import misfit, write_rungs
from masksup.selection.judge import gain
from masksup.selection.ladder import Rung
from masksup.selection.search import Climb


def plan_lines(search: Climb, train_index: Path) -> list[str]:
    """What would be tried, in order, and under which condition."""
    write_rungs(search, train_index)
    lines = []
    for number, rung in enumerate(search.rungs, 1):
        lines.append(f"{number}. {rung.title}{_when(search, rung)}")
    how = ", as they are and with more than half of each image hidden," if search.robust else ""
    lines.append(
        f"each is judged by {search.facts.folds} folds of the training part{how} held out in turn; of those within a "
        "standard error of the best one, the first is trained on all of it"
    )
    begins = any(rung.starts_from for rung in search.rungs)
    how = (
        " (fine-tuning then begins with a new head, unless model.weights names the run of that head)" if begins else ""
    )
    lines.append(f"to train one of them yourself: masksup train FILE{how}")
    return lines


def _when(search: Climb, rung: Rung) -> str:
    """Whether a rung would be tried, and where its settings are."""
    file = search.file(rung)
    why = rung.unfit or misfit(search, load_config(file, search.overrides)[0])
    if why is not None:
        return f": not possible here, because {why}"
    pairs = [(search.rung(a), search.rung(b)) for a, b in rung.after]
    when = " and ".join(f"'{a.title}' is clearly better than '{b.title}'" for a, b in pairs)
    return f"{', always' if rung.sure else ''}{f', if {when}' if when else ''}: {file}"


def table_of(search: Climb) -> Table:
    """Setting, cross-validated mAP with the interval of what judges, time."""
    title = f"the ladder: mAP of held-out images, {search.facts.folds} folds"
    table = Table(title=title, title_justify="left")
    for name in ("setting", "mAP", *(("hidden", "mean") if search.robust else ()), "95 % interval", "time"):
        table.add_column(name, justify="left" if name == "setting" else "right", no_wrap=name != "setting")
    for rung in search.rungs:
        score = search.scores.get(rung.name)
        if score is None:
            table.add_row(f"{rung.title}: not tried")
            continue
        figures = [score.clean, *((score.masked, score.judged) if score.masked else ())]
        low, high = score.judged.interval
        mark = " (chosen)" if rung is search.winner else ""
        table.add_row(
            f"{rung.title}{mark}", *(f"{one.mean_ap:.1f}" for one in figures), f"{low:.1f} to {high:.1f}",
            duration(search.seconds[rung.name]),
        )  # fmt: skip
    if search.robust:
        table.caption = "hidden: with 50 to 60 % of each image hidden; the mean of the two is what judges"
        table.caption_justify = "left"
    return table


def test_scores(search: Climb) -> dict[str, Any]:
    """Of the chosen run, where a test part was named."""
    scores: dict[str, Any] = read_json(search.run / "result.json", "the result of a run")["last"]["test"]
    return scores


def _not_the_best(search: Climb) -> list[str]:
    """Why another setting was taken than the one with the highest figure, where that is so."""
    best = max(search.tried, key=lambda rung: search.scores[rung.name].judged.mean_ap)
    if best is search.winner:
        return []
    found = gain(search.scores[best.name].judged, search.scores[search.winner.name].judged)
    return [
        f"'{best.title}' has {found.mean_ap:.1f} points more, but that may be chance (standard error "
        f"{found.error:.1f}), and the one that was chosen is simpler"
    ]


def last_lines(search: Climb, tested: bool) -> list[str]:
    """What was chosen, what its score is worth, and what to do with it."""
    winner = search.winner
    score = search.scores[winner.name]
    masked = f", {score.masked.mean_ap:.1f} with more than half of each hidden" if score.masked else ""
    lines = [f"chosen: {winner.title}; {score.clean.mean_ap:.1f} mAP on held-out training images{masked}"]
    lines += _not_the_best(search)
    if len(search.tried) > 1:
        lines.append("this figure is a little too good, because the setting was chosen by it among several")
    if tested:
        result = test_scores(search)
        lines.append(
            f"on the test part, which chose nothing: {result['mAP']:.1f} mAP over {result['protocol']['data']}"
        )
    else:
        lines.append(
            "an honest figure needs images that chose nothing: "
            f"masksup eval {shlex.quote(str(search.run))} --data INDEX (another time: --test)"
        )
    lines.append(f"choices: {search.out / CHOICES}; settings: {search.out / 'winner.yaml'}")
    lines.append(f"label images with it: masksup predict {shlex.quote(str(search.run))} FOLDER --out labels.csv")
    return lines
