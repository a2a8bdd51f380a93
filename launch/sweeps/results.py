"""What a sweep ends in: its settings sorted by score, with mean and spread over seeds."""

import shlex
import shutil
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.ledger import Folder, read_json, score_of, starts
from masksup.base import csv_text
from masksup.base.files import write_atomically
from masksup.base.json_option import given_as_json
from masksup.base.words import shortened

_NUMBERS, _NARROWEST = 23, 12  # columns: what the numbers of a row need; the least that a name gets


@dataclass(frozen=True)
class ScoredSetting:
    """One setting over its seeds. Scores are the best epoch's mAP on the evaluation part, in percent."""

    name: str
    overrides: tuple[str, ...]
    scores: tuple[float, ...]
    missing: int
    """Seeds without a result."""
    error: str | None
    """Why a seed has none: its last error, or how successive halving judged it."""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n-1); None for less than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


def scored(home: Path) -> list[ScoredSetting]:
    """The settings of a sweep, best first; those without a score last."""
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for place, row in read_json(home / "launch" / "sweep.json").get("settings", {}).items():
        groups.setdefault(row["name"], []).append((place, row))
    found = []
    for name, members in groups.items():
        scores = [score_of(read_json(home / place / "result.json")) for place, _ in members]
        errors = [reason for place, _ in members if (reason := _reason(Folder(home / place))) is not None]
        overrides = tuple(text for text in members[0][1]["overrides"] if not text.startswith("seed="))
        have = tuple(score for score in scores if score is not None)
        found.append(ScoredSetting(name, overrides, have, len(scores) - len(have), errors[-1] if errors else None))
    return sorted(found, key=lambda setting: (setting.mean is None, -(setting.mean or 0.0), setting.name))


def _reason(folder: Folder) -> str | None:
    if folder.stopped_early.exists():
        return folder.stopped_early.read_text(encoding="utf-8").strip()
    return next((start.error for start in reversed(starts(folder)) if start.error), None)


def as_csv(table: list[ScoredSetting]) -> str:
    rows: list[list[object]] = [["setting", "mAP_mean", "mAP_spread", "seeds", "missing", "overrides", "error"]]
    for row in table:
        numbers = ["" if value is None else f"{value:.4f}" for value in (row.mean, row.spread)]
        error = row.error if row.missing else None
        rows.append([row.name, *numbers, len(row.scores), row.missing, " ".join(row.overrides), error or ""])
    return csv_text.as_csv(rows)


def as_text(home: Path, table: list[ScoredSetting], columns: int | None = None) -> str:
    """columns: of the terminal; None: names in full."""
    width = max([len(row.name) for row in table], default=7)
    if columns is not None:
        width = min(width, max(columns - _NUMBERS, _NARROWEST))
    lines = [f"{'setting':{width}}  {'mAP':>6}  {'spread':>6}  seeds"]
    for row in table:
        mean = "     -" if row.mean is None else f"{row.mean:6.2f}"
        spread = "     -" if row.spread is None else f"{row.spread:6.2f}"
        lacking = f"  ({row.missing} without a result{': ' + row.error if row.error else ''})" if row.missing else ""
        lines.append(f"{shortened(row.name, width):{width}}  {mean}  {spread}  {len(row.scores):5d}{lacking}")
    if table and table[0].scores:
        base = read_json(home / "launch" / "sweep.json").get("base", "")
        lines += ["", "best: masksup train " + shlex.join([base, *table[0].overrides])]
    return "\n".join(lines) + "\n"


def write_results(home: Path) -> None:
    """`results.csv` and `results.txt` of a sweep, as far as it has come."""
    table = scored(home)
    write_atomically(home / "results.csv", as_csv(table))
    write_atomically(home / "results.txt", as_text(home, table))


def renew_results(run: Path) -> None:
    """The tables of the run's sweep, if it has one. Whatever goes wrong is said and matters to nobody."""
    try:
        home = sweep_of(run)
        if home is not None:
            write_results(home)
    except Exception as error:
        print(f"{run}: results of the sweep are not renewed: {type(error).__name__}: {error}", flush=True)


def show_results(home: Path, json: str | None = None) -> None:
    """The table on standard output, or its rows where `--json` says so."""
    table = scored(home)
    with given_as_json(json) as give:
        give([{**asdict(row), "mean": row.mean, "spread": row.spread} for row in table])
    if json is None:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n" + as_text(home, table, columns), end="")


def swept_keys(home: Path) -> list[str]:
    """The keys in which the settings of a sweep differ, seeds included where there are several."""
    rows = read_json(home / "launch" / "sweep.json").get("settings", {}).values()
    told = [dict(text.split("=", 1) for text in row.get("overrides", ())) for row in rows]
    return sorted(key for key in set().union(*told) if len({values.get(key) for values in told}) > 1)


def sweep_of(run: Path) -> Path | None:
    """The sweep that a run belongs to: SWEEP/SETTING/seedN."""
    home = run.parent.parent
    return home if (home / "launch" / "sweep.json").is_file() else None
