"""The table of `status` as text."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from launch.results import sweep_of
from launch.status import Row, as_json, find_runs, rows
from masksup.errors import UserError

_WIDE = 200  # columns, where the output is a file
_COLOURS = {"running": "green", "finished": "blue", "failed": "red", "silent": "red", "disagree": "red"}


def status(folder: Path, as_json_: bool, watch: float | None) -> int:
    """Print the table of all runs below `folder`, again and again every `watch` seconds."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected one that holds runs")
    if watch is not None and not watch > 0:
        raise UserError(f"--watch: found {watch:g}, expected seconds above 0")
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDE)
    while True:
        found = find_runs(folder)
        table = rows(found, folder)
        if as_json_:
            print(as_json(table), flush=True)
        else:
            if watch is not None:
                console.clear()
            if not found:
                console.print(f"{folder}: no runs", markup=False)
            show(table, console, folder)
        if watch is None:
            return 0
        time.sleep(watch)


def show(table: list[Row], console: Console, folder: Path) -> None:
    if not table:
        return
    printed = Table(box=None, pad_edge=False)
    for name in ("run", "job", "state", "epoch", "mAP", "images/s", "left", "starts", "useful h", "lost h"):
        printed.add_column(name, overflow="fold", justify="left" if name in ("run", "job", "state") else "right")
    for row in table:
        lost = row.startup + row.redone + row.waiting
        state = f"[{_COLOURS.get(row.state, 'yellow')}]{row.state}[/]"
        printed.add_row(
            row.run.replace("[", r"\["), row.job or "", state, _number(row.epoch, "{:.1f}"),
            _number(row.score, "{:.2f}"), _number(row.images_per_second, "{:.0f}"), _time(row.eta_seconds),
            str(row.starts), f"{row.useful:.2f}", f"{lost:.2f}",
        )  # fmt: skip
    console.print(printed)
    for row in table:
        for text in (row.error if row.state != "running" else None, row.note):
            if text:
                console.print(f"{row.run}: {text}", markup=False, soft_wrap=True)
    for name, group in _by_sweep(table, folder).items():
        console.print(f"sweep {name}: {summary(group)}", markup=False, soft_wrap=True)
    console.print(summary(table), markup=False, soft_wrap=True)


def _by_sweep(table: list[Row], folder: Path) -> dict[str, list[Row]]:
    """The rows of each sweep below `folder`, where there is more than that one sweep."""
    groups: dict[str, list[Row]] = {}
    for row in table:
        home = sweep_of(folder / row.run)
        if home is not None and home.is_relative_to(folder) and home != folder:
            groups.setdefault(str(home.relative_to(folder)), []).append(row)
    return groups


def summary(table: list[Row]) -> str:
    """One line for all runs."""
    states = [row.state for row in table]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    total: Callable[[str], float] = lambda name: sum(getattr(row, name) for row in table)  # noqa: E731
    scored = [row for row in table if row.score is not None]
    best = max(scored, key=lambda row: row.score or 0.0, default=None)
    line = (
        f"{len(table)} runs: {counts}; GPU-hours useful {total('useful'):.2f}, lost {total('startup'):.2f} starting, "
    )
    line += f"{total('redone'):.2f} redone, {total('waiting'):.2f} waiting"
    return line + (f"; best mAP {best.score:.2f} ({best.run})" if best is not None else "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d}"
