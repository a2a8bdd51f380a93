"""What runs, what waits, what was lost: SLURM's view and the runs' own, side by side."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.cluster import local, slurm
from launch.cluster.active import Seen, look
from launch.ledger import Folder, Start, job_of, progress, read_json, recoveries, score_of, starts
from launch.watch.hours import gpu_hours
from masksup.errors import UserError
from masksup.selection import CHOICES, FOLDS

FRESH_S = 20.0
"""A run whose last sign of life is older than this is silent."""


STATES = (
    "waiting", "suspended", "starting", "running", "silent", "stopping", "finished", "failed", "cancelled", "stopped",
    "stopped early", "new", "closed", "disagree",
)  # fmt: skip
"""In one word each; closed: another user's."""


@dataclass(frozen=True)
class RunStatus:
    """One run."""

    run: str
    job: str | None
    state: str
    """One of STATES."""
    slurm: str | None = None
    """SLURM's word for the job; None where it knows nothing of it."""
    nodes: int | None = None
    """Of the newest start."""
    ranks: int | None = None
    """Of the newest start, once they have met."""
    heartbeat_age: float | None = None
    """Seconds since the last sign of life of the newest start."""
    phase: str | None = None
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    score: float | None = None
    """Best mAP so far, or of the result."""
    images_per_second: float | None = None
    eta_seconds: float | None = None
    starts: int = 0
    recoveries: int = 0
    """How often ranks were forked anew, over all starts."""
    recovery_seconds: float = 0.0
    """What these cost together, until the first new step of each."""
    error: str | None = None
    useful: float = 0.0
    startup: float = 0.0
    redone: float = 0.0
    waiting: float = 0.0
    note: str | None = None
    """What does not fit together, or why it waits."""


def find_runs(folder: Path) -> list[Path]:
    """Run folders at or below `folder`, sorted; without the folds by which `masksup auto` chooses."""
    found = []
    for place, below, files in os.walk(folder):
        path = Path(place)
        if "config.yaml" in files and ("launch" in below or "starts.jsonl" in files):
            found.append(path)
            below.clear()
        if CHOICES in files and FOLDS in below:
            below.remove(FOLDS)
        below[:] = [name for name in below if name not in ("launch", "submitit") and not name.startswith("code-")]
    return sorted(found)


def rows(runs: Iterable[Path], base: Path, hours: bool = True) -> list[RunStatus]:
    """The table of these runs; three questions to SLURM whatever their number."""
    folders = [Folder(run) for run in runs]
    closed = {folder: who for folder in folders if (who := folder.closed_by) is not None}
    ours = [folder for folder in folders if folder not in closed]
    histories = {folder: starts(folder) for folder in ours}
    jobs, accounts, problem = _ask(ours, histories.values() if hours else [])
    return [
        _closed(folder, base, closed[folder]) if folder in closed
        else _row(folder, base, jobs[folder], histories[folder], accounts, problem)
        for folder in folders
    ]  # fmt: skip


def _ask(
    folders: list[Folder], histories: Iterable[list[Start]]
) -> tuple[dict[Folder, Seen], list[slurm.Accounted] | None, str | None]:
    """What SLURM says of the jobs and of their past starts; or why it could not be asked."""
    in_slurm = [folder for folder in folders if (job := job_of(folder)) and not local.is_local(job)]
    here = {folder: Seen(job_of(folder)) for folder in in_slurm} | look(set(folders) - set(in_slurm))
    if not slurm.here():
        return here, None, "no SLURM on this machine"
    past = {start.job for history in histories for start in history if not local.is_local(start.job)}
    try:
        return here | look(in_slurm), slurm.accounting(past), None
    except UserError as error:
        return here, None, str(error)


def _closed(folder: Folder, base: Path, who: str) -> RunStatus:
    """What anybody may see of a run whose launch folder is somebody else's."""
    score = score_of(read_json(folder.result))
    state = "finished" if score is not None else "closed"
    note = None if score is not None else f"this run is {who}'s; you may not look into it"
    return RunStatus(run=_name(folder, base), job=None, state=state, score=score, note=note)


def _name(folder: Folder, base: Path) -> str:
    return str(folder.run.relative_to(base)) if folder.run != base else folder.run.name


def _row(
    folder: Folder,
    base: Path,
    seen: Seen,
    history: list[Start],
    accounts: list[slurm.Accounted] | None,
    problem: str | None,
) -> RunStatus:
    beat = read_json(folder.heartbeat if seen.job is not None or history else folder.plain_heartbeat)
    newest = history[-1] if history else None
    own = bool(progress(folder, newest)) if newest is not None else seen.job is None
    age = time.time() - float(beat["time"]) if own and "time" in beat else None
    in_slurm = seen.job is not None and not local.is_local(seen.job)
    state, note = judge(folder, seen.now, newest, age, beat.get("phase"), problem if in_slurm else None)
    if newest is not None and newest.outcome is None and own:
        newest = _with(newest, progress(folder, newest))
        history = [*history[:-1], newest]
    recovered = recoveries(folder)
    spent = gpu_hours(history, _of(accounts, history), recoveries=recovered)
    result = read_json(folder.result)
    return RunStatus(
        run=_name(folder, base), job=seen.job, state=state, slurm=seen.now.state if seen.now else None,
        nodes=len(newest.nodes) if newest else None, ranks=beat.get("ranks") if own else None,
        heartbeat_age=age, phase=beat.get("phase"), step=beat.get("last_step"), total_steps=beat.get("total_steps"),
        epoch=beat.get("epoch"), score=score_of(result) or beat.get("best"),
        images_per_second=result.get("images_per_second") or beat.get("images_per_second"),
        eta_seconds=_eta(beat) if state == "running" else None, starts=len(history),
        recoveries=len(recovered), recovery_seconds=sum(recovery.seconds for recovery in recovered),
        error=_error(history, state), useful=spent.useful, startup=spent.startup, redone=spent.redone,
        waiting=spent.waiting, note=note or seen.stranger,
    )  # fmt: skip


def judge(
    folder: Folder,
    known: slurm.Job | None,
    newest: Start | None,
    age: float | None,
    phase: str | None,
    problem: str | None,
) -> tuple[str, str | None]:
    """A run's state in one word, and what does not fit together.

    `known`: SLURM's view, None where it has forgotten the job or never had one; `problem`: why it could not be asked.
    """
    if folder.result.exists():
        return "finished", _ended_by_itself(folder)
    if folder.stopped_early.exists() and (newest is None or newest.outcome == "hopeless"):
        return "stopped early", folder.stopped_early.read_text(encoding="utf-8").strip()
    alive = age is not None and abs(age) < FRESH_S and (newest is None or newest.outcome is None)
    if problem is not None:
        return _unasked(folder, newest, alive), problem
    if known is None and newest is None and age is not None:  # a run that no launcher has started
        return ("starting" if alive and phase == "starting" else "running" if alive else "stopped"), None
    if known is None or not known.active:
        return _without_a_job(folder, known, newest, age if alive else None)
    if known.state == "SUSPENDED":
        return "suspended", None
    if known.state == "RUNNING":
        if alive:
            return ("starting" if phase == "starting" else "running"), None
        if age is not None and newest is not None and newest.outcome is None:
            return "silent", f"SLURM says RUNNING, but the last sign of life is {_how_old(age)}"
        return "starting", None
    if known.state == "COMPLETING":
        return "stopping", None
    if alive and not _settles(known.submitted):
        return "disagree", f"SLURM says {known.state}, but the run gave a sign of life {age:.0f} s ago"
    return "waiting", known.reason or None


def _ended_by_itself(folder: Folder) -> str | None:
    """Where a finished run ended before its last epoch; older results tell nothing of it."""
    told = read_json(folder.result).get("stopped_early")
    return f"stopped early at step {told['step']} of {told['of_steps']} ({told['by']})" if told else None


def _how_old(age: float) -> str:
    """Of a sign of life that is not fresh. One from the future tells nothing but that two clocks differ."""
    return f"{age:.0f} s old" if age > 0 else f"from {-age:.0f} s ahead: set the clock of its machine, or of this one"


def _unasked(folder: Folder, newest: Start | None, alive: bool) -> str:
    if folder.cancelled.exists() and not alive:
        return "cancelled"
    if newest is not None and newest.outcome == "wrong":
        return "failed"
    return "running" if alive else "disagree"


def _without_a_job(
    folder: Folder, known: slurm.Job | None, newest: Start | None, age: float | None
) -> tuple[str, str | None]:
    """Of a run that SLURM neither runs nor keeps waiting; `age` of its sign of life, if there is a fresh one."""
    if age is not None and _settles(known.ended if known else None):
        return "stopping", None
    if age is not None:
        said = known.state if known else "nothing of this job"
        return "disagree", f"SLURM says {said}, but the run gave a sign of life {age:.0f} s ago"
    if folder.cancelled.exists() or (known is not None and known.state == "CANCELLED"):
        return "cancelled", None
    if newest is None:
        return ("failed", f"SLURM: {known.state}, before it began") if known else ("new", None)
    if newest.outcome in ("preempted", "timeout", "interrupted", None):
        return "stopped", "not queued any more; masksup-launch resume goes on with it"
    return "failed", None


def _settles(since: float | None) -> bool:
    """Whether SLURM's word is so new that a sign of life may be from before it."""
    return since is not None and abs(time.time() - since) < FRESH_S


def _with(start: Start, more: dict[str, Any]) -> Start:
    return Start(**{**asdict(start), **more})


def _of(accounts: list[slurm.Accounted] | None, history: list[Start]) -> list[slurm.Accounted] | None:
    ours = {start.job for start in history}
    return None if accounts is None else [row for row in accounts if row.id in ours and row.start is not None]


def _eta(beat: dict[str, Any]) -> float | None:
    keys = ("first_step", "last_step", "first_step_at", "last_step_at", "total_steps")
    if any(beat.get(key) is None for key in keys) or beat["last_step"] <= beat["first_step"]:
        return None
    pace = (beat["last_step_at"] - beat["first_step_at"]) / (beat["last_step"] - beat["first_step"])
    return float(pace * (beat["total_steps"] - beat["last_step"]))


def _error(history: list[Start], state: str) -> str | None:
    if state == "finished":
        return None
    return next((start.error for start in reversed(history) if start.error), None)


def as_json(table: list[RunStatus]) -> str:
    return json.dumps([asdict(row) for row in table], indent=1, allow_nan=False)
