"""What runs, what waits, what was lost: SLURM's view and the runs' own, side by side."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch import local, slurm
from launch.hours import gpu_hours
from launch.ledger import Attempt, Folder, attempts, job_of, progress, read_json, score_of
from masksup.errors import UserError

FRESH_S = 20.0
"""A run whose last sign of life is older than this is silent."""


@dataclass(frozen=True)
class Row:
    """One run."""

    run: str
    job: str | None
    state: str
    """In one word: waiting, starting, running, silent, finished, failed, cancelled, stopped,
    stopped early, new, or disagree."""
    slurm: str | None
    """SLURM's word for the job; None where it knows nothing of it."""
    heartbeat_age: float | None
    """Seconds since the last sign of life of the newest start."""
    phase: str | None
    step: int | None
    total_steps: int | None
    epoch: float | None
    score: float | None
    """Best mAP so far, or of the result."""
    images_per_second: float | None
    eta_seconds: float | None
    starts: int
    error: str | None
    useful: float
    startup: float
    redone: float
    waiting: float
    note: str | None
    """What does not fit together, or why it waits."""


def find_runs(folder: Path) -> list[Path]:
    """Run folders at or below `folder`, sorted."""
    found = []
    for place, below, files in os.walk(folder):
        path = Path(place)
        if "config.yaml" in files and ("launch" in below or "starts.jsonl" in files):
            found.append(path)
            below.clear()
        below[:] = [name for name in below if name not in ("launch", "submitit") and not name.startswith("code-")]
    return sorted(found)


def rows(runs: Iterable[Path], base: Path, hours: bool = True) -> list[Row]:
    """The table of these runs; three questions to SLURM whatever their number."""
    folders = [Folder(run) for run in runs]
    jobs = {folder: job_of(folder) for folder in folders}
    in_slurm = [job for folder, job in jobs.items() if job and not job.startswith("local-")]
    histories = {folder: attempts(folder) for folder in folders}
    queue, accounts, problem = _ask(in_slurm, histories.values() if hours else [])
    return [_row(folder, base, jobs[folder], histories[folder], queue, accounts, problem) for folder in folders]


def _ask(
    jobs: list[str], histories: Iterable[list[Attempt]]
) -> tuple[dict[str, slurm.Job], list[slurm.Accounted] | None, str | None]:
    if not slurm.here():
        return {}, None, "no SLURM on this machine" if jobs else None
    past = {attempt.job for history in histories for attempt in history if not attempt.job.startswith("local-")}
    try:
        return slurm.queue(jobs), slurm.accounting(past), None
    except UserError as error:
        return {}, None, str(error)


def _row(
    folder: Folder,
    base: Path,
    job: str | None,
    history: list[Attempt],
    queue: dict[str, slurm.Job],
    accounts: list[slurm.Accounted] | None,
    problem: str | None,
) -> Row:
    beat = read_json(folder.heartbeat)
    newest = history[-1] if history else None
    own = newest is not None and bool(progress(folder, newest))
    age = time.time() - float(beat["time"]) if own and "time" in beat else None
    known = queue.get(job or "")
    if job and job.startswith("local-"):
        known = _local(job, begun=newest is not None)
    state, note = judge(
        folder, known, newest, age, beat.get("phase"), problem if job and not job.startswith("local-") else None
    )
    if newest is not None and newest.outcome is None and own:
        newest = _with(newest, progress(folder, newest))
        history = [*history[:-1], newest]
    spent = gpu_hours(history, _of(accounts, history))
    result = read_json(folder.result)
    step, total = beat.get("last_step"), beat.get("total_steps")
    return Row(
        run=str(folder.run.relative_to(base)) if folder.run != base else folder.run.name,
        job=job, state=state, slurm=known.state if known else None, heartbeat_age=age, phase=beat.get("phase"),
        step=step, total_steps=total, epoch=beat.get("epoch"), score=score_of(result) or beat.get("best"),
        images_per_second=result.get("images_per_second") or beat.get("images_per_second"),
        eta_seconds=_eta(beat) if state == "running" else None, starts=len(history),
        error=_error(history, state), useful=spent.useful, startup=spent.startup, redone=spent.redone,
        waiting=spent.waiting, note=note,
    )  # fmt: skip


def _local(job: str, begun: bool) -> slurm.Job:
    if not local.alive(job):
        return slurm.Job(job, "COMPLETED")
    if "_" in job and not begun:
        return slurm.Job(job, "PENDING", reason="after the settings before it")
    return slurm.Job(job, "RUNNING")


def judge(
    folder: Folder,
    known: slurm.Job | None,
    newest: Attempt | None,
    age: float | None,
    phase: str | None,
    problem: str | None,
) -> tuple[str, str | None]:
    """A run's state in one word, and what does not fit together.

    `known`: SLURM's view, None where it has forgotten the job or never had one; `problem`: why it could not be asked.
    """
    if folder.result.exists():
        return "finished", None
    if folder.stopped_early.exists() and (newest is None or newest.outcome == "hopeless"):
        return "stopped early", folder.stopped_early.read_text(encoding="utf-8").strip()
    alive = age is not None and age < FRESH_S and newest is not None and newest.outcome is None
    if problem is not None:
        if folder.cancelled.exists() and not alive:
            return "cancelled", problem
        if newest is not None and newest.outcome == "wrong":
            return "failed", problem
        return ("running" if alive else "disagree"), problem
    if known is None or not known.active:
        if alive:
            said = known.state if known else "nothing of this job"
            return "disagree", f"SLURM says {said}, but the run gave a sign of life {age:.0f} s ago"
        if folder.cancelled.exists() or (known is not None and known.state == "CANCELLED"):
            return "cancelled", None
        if newest is None:
            return ("failed", f"SLURM: {known.state}, before it began") if known else ("new", None)
        if newest.outcome in ("preempted", "timeout", "interrupted", None):
            return "stopped", "not queued any more; masksup-launch resume goes on with it"
        return "failed", None
    if known.state == "RUNNING":
        if alive:
            return ("starting" if phase == "starting" else "running"), None
        if age is not None and age >= FRESH_S and newest is not None and newest.outcome is None:
            return "silent", f"SLURM says RUNNING, but the last sign of life is {age:.0f} s old"
        return "starting", None
    if known.state == "COMPLETING":
        return "stopping", None
    if alive:
        return "disagree", f"SLURM says {known.state}, but the run gave a sign of life {age:.0f} s ago"
    return "waiting", known.reason or None


def _with(attempt: Attempt, more: dict[str, Any]) -> Attempt:
    return Attempt(**{**asdict(attempt), **more})


def _of(accounts: list[slurm.Accounted] | None, history: list[Attempt]) -> list[slurm.Accounted] | None:
    ours = {attempt.job for attempt in history}
    return None if accounts is None else [row for row in accounts if row.id in ours and row.start is not None]


def _eta(beat: dict[str, Any]) -> float | None:
    keys = ("first_step", "last_step", "first_step_at", "last_step_at", "total_steps")
    if any(beat.get(key) is None for key in keys) or beat["last_step"] <= beat["first_step"]:
        return None
    pace = (beat["last_step_at"] - beat["first_step_at"]) / (beat["last_step"] - beat["first_step"])
    return float(pace * (beat["total_steps"] - beat["last_step"]))


def _error(history: list[Attempt], state: str) -> str | None:
    if state == "finished":
        return None
    return next((attempt.error for attempt in reversed(history) if attempt.error), None)


def as_json(table: list[Row]) -> str:
    return json.dumps([asdict(row) for row in table], indent=1, allow_nan=False)
