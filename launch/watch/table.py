"""The table of `status` as text."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.sweeps.results import sweep_of
from launch.watch.status import STATES, RunStatus, as_json, find_runs, rows
from masksup.base.fitted import fitted, needed
from masksup.base.words import counted, shortened
from masksup.errors import UserError, nearest


@dataclass(frozen=True)
class _Column:
    value: Callable[[RunStatus], Any]
    text: Callable[[RunStatus], str]
    number: bool = True


def _counted(value: Callable[[RunStatus], float | None], form: str) -> _Column:
    return _Column(value, lambda row: "" if (found := value(row)) is None else form.format(found))


def _state(row: RunStatus) -> str:
    return f"{row.state} ({row.note})" if row.state == "waiting" and row.note else row.state


def _starts(row: RunStatus) -> str:
    """Three starts, in which ranks were forked anew twice: 3+2."""
    return f"{row.starts}+{row.recoveries}" if row.recoveries else str(row.starts)


_COLUMNS = {
    "run": _Column(lambda row: row.run, lambda row: row.run, number=False),
    "job": _Column(lambda row: row.job, lambda row: row.job or "", number=False),
    "state": _Column(lambda row: row.state, _state, number=False),
    "ranks": _counted(lambda row: row.ranks, "{}"),
    "epoch": _counted(lambda row: row.epoch, "{:.1f}"),
    "mAP": _counted(lambda row: row.score, "{:.2f}"),
    "images/s": _counted(lambda row: row.images_per_second, "{:.0f}"),
    "left": _Column(lambda row: row.eta_seconds, lambda row: _time(row.eta_seconds)),
    "starts": _Column(lambda row: row.starts, _starts),
    "useful h": _counted(lambda row: row.useful, "{:.2f}"),
    "lost h": _counted(lambda row: row.startup + row.redone + row.waiting, "{:.2f}"),
}
_NARROWEST, _REST = 16, 77  # columns: the least that a run's name gets; what the others need
_WIDE = 200  # columns, where the output is a file
_COLOURS = {"running": "green", "finished": "blue", "failed": "red", "silent": "red", "disagree": "red"}


@dataclass(frozen=True)
class View:
    """Which rows are shown, in what order, with what of them."""

    states: tuple[str, ...] = ()
    """Empty: all."""
    sort: str = "run"
    columns: tuple[str, ...] = tuple(_COLUMNS)


def view(states: str | None, sort: str | None, columns: str | None) -> View:
    """From the options of the command: lists with commas. UserError for a name that is none."""
    names = tuple(columns.split(",")) if columns else tuple(_COLUMNS)
    for option, found in (("--columns", names), ("--sort", (sort or "run",))):
        for name in found:
            if name not in _COLUMNS:
                raise UserError(f"{option}: found '{name}'; {nearest(name, _COLUMNS)}")
    wanted = tuple(states.split(",")) if states else ()
    for state in wanted:
        if state not in STATES:
            raise UserError(f"--state: found '{state}'; {nearest(state, STATES)}")
    return View(wanted, sort or "run", names)


def status(folder: Path, as_json_: bool, watch: float | None, asked: View = View()) -> int:
    """Print the table of the runs below `folder`, again and again every `watch` seconds."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected one that holds runs")
    if watch is not None and not watch > 0:
        raise UserError(f"--watch: found {watch:g}, expected seconds above 0")
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDE)
    while True:
        found = find_runs(folder)
        table = chosen(rows(found, folder), asked)
        if as_json_:
            print(as_json(table), flush=True)
        else:
            if watch is not None:
                console.clear()
            if not found:
                console.print(f"{folder}: no runs", markup=False)
            show(table, console, folder, asked.columns)
        if watch is None:
            return 0
        time.sleep(watch)


def chosen(table: list[RunStatus], asked: View) -> list[RunStatus]:
    """The rows of the states asked for; names rise, numbers fall, and what has none comes last."""
    kept = [row for row in table if not asked.states or row.state in asked.states]
    value = _COLUMNS[asked.sort].value
    known = [row for row in kept if value(row) is not None]
    falls = any(isinstance(value(row), (int, float)) for row in known)
    return sorted(known, key=value, reverse=falls) + [row for row in kept if value(row) is None]


def show(table: list[RunStatus], console: Console, folder: Path, columns: Sequence[str] = tuple(_COLUMNS)) -> None:
    if not table:
        return
    room = max(_NARROWEST, console.width - _REST)
    printed = _printed(table, columns, room)
    if needed(printed) > console.width:  # why a run waits is the first thing to go
        printed = _printed([replace(row, note=None) for row in table], columns, room)
    console.print(fitted(printed, console.width, "--columns chooses others"))
    for row in table:
        for text in (row.error if row.state != "running" else None, row.note if row.state != "waiting" else None):
            if text:
                console.print(f"{row.run}: {text}", markup=False, soft_wrap=True)
    for name, group in _by_sweep(table, folder).items():
        console.print(f"sweep {name}: {summary(group)}", markup=False, soft_wrap=True)
    console.print(summary(table), markup=False, soft_wrap=True)


def _printed(table: list[RunStatus], columns: Sequence[str], room: int) -> Table:
    """room: letters for the name of a run."""
    printed = Table(box=None, pad_edge=False)
    for name in columns:
        printed.add_column(name, no_wrap=True, justify="right" if _COLUMNS[name].number else "left")
    for row in table:
        cells = {name: _COLUMNS[name].text(row) for name in columns}
        if "run" in cells:
            cells["run"] = shortened(row.run, room)
        if "state" in cells:
            cells["state"] = f"[{_COLOURS.get(row.state, 'yellow')}]{escape(cells['state'])}[/]"
        printed.add_row(*[text if name == "state" else escape(text) for name, text in cells.items()])
    return printed


def _by_sweep(table: list[RunStatus], folder: Path) -> dict[str, list[RunStatus]]:
    """The rows of each sweep below `folder`, where there is more than that one sweep."""
    groups: dict[str, list[RunStatus]] = {}
    for row in table:
        home = sweep_of(folder / row.run)
        if home is not None and home.is_relative_to(folder) and home != folder:
            groups.setdefault(str(home.relative_to(folder)), []).append(row)
    return groups


def summary(table: list[RunStatus]) -> str:
    """One line for all runs."""
    states = [row.state for row in table]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    total: Callable[[str], float] = lambda name: sum(getattr(row, name) for row in table)  # noqa: E731
    scored = [row for row in table if row.score is not None]
    best = max(scored, key=lambda row: row.score or 0.0, default=None)
    line = f"{counted(len(table), 'run')}: {counts}; GPU-hours useful {total('useful'):.2f}, "
    line += f"lost {total('startup'):.2f} starting, "
    line += f"{total('redone'):.2f} redone, {total('waiting'):.2f} waiting"
    return line + (f"; best mAP {best.score:.2f} ({best.run})" if best is not None else "")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d}"
