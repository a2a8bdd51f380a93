"""Which runs have a job that runs, waits or comes back; and whether a job of that number is the run's at all.

Job numbers begin anew on each cluster and after some millions, so a number alone may be that of somebody else's job.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from launch.cluster import local, slurm
from launch.ledger import Folder, job_of, read_json, starts, write_json
from masksup.errors import UserError


@dataclass(frozen=True)
class Seen:
    """The job of a run, as far as it is the run's own."""

    job: str | None
    """Its number in the run folder; None for a run that no launcher has started."""
    now: slurm.Job | None = None
    """What runs or waits under that number, where that is the run's."""
    stranger: str | None = None
    """Why the job of that number is not the run's, where there is one."""

    @property
    def active(self) -> bool:
        return self.now is not None and self.now.active


def look(folders: Iterable[Folder]) -> dict[Folder, Seen]:
    """The jobs of runs by one question to SLURM. UserError where it does not answer."""
    jobs = {folder: job_of(folder) for folder in folders}
    queue = slurm.queue(job for job in jobs.values() if job and not local.is_local(job))
    return {folder: _seen(folder, job, queue) for folder, job in jobs.items()}


def _seen(folder: Folder, job: str | None, queue: Mapping[str, slurm.Job]) -> Seen:
    if job is None:
        return Seen(None)
    if local.is_local(job):
        return Seen(job, _local(folder, job))
    now = queue.get(job)
    reason = None if now is None else stranger(read_json(folder.job).get("identity", {}), now)
    return Seen(job, now, None) if reason is None else Seen(job, None, reason)


def _local(folder: Folder, job: str) -> slurm.Job:
    if not local.alive(job, folder.run):
        orphans = not folder.result.exists() and local.ranks(folder)
        return slurm.Job(job, "RUNNING" if orphans else "COMPLETED")
    waits = "_" in job and not starts(folder)
    return slurm.Job(job, "PENDING", "after the settings before it") if waits else slurm.Job(job, "RUNNING")


def remember(jobs: Mapping[str, Folder], name: str) -> None:
    """Note the numbers of jobs that were submitted just now in their runs' folders, without a question to SLURM."""
    for job, folder in jobs.items():
        known = {} if local.is_local(job) else identity(None, name)
        row = {"job": job, "submitted": time.time(), "identity": known}
        write_json(folder.job, read_json(folder.job) | row)


def recognise(jobs: Mapping[str, Folder]) -> None:
    """Note, by one question, what else SLURM knows jobs by that `remember` has noted."""
    try:
        known = slurm.queue(job for job in jobs if not local.is_local(job))
    except UserError:  # they are submitted; who asks later compares what is known
        return
    for job, folder in jobs.items():
        row = read_json(folder.job)
        if job in known and row.get("job") == job:
            write_json(folder.job, row | {"identity": row.get("identity", {}) | identity(known[job])})


def identity(job: slurm.Job | None, name: str = "") -> dict[str, Any]:
    """What a job is known by beside its number, as far as SLURM says it."""
    row: dict[str, Any] = {"cluster_name": slurm.cluster_name(), "name": job.name if job else name}
    row |= {"user": job.user, "submitted": job.submitted} if job else {}
    return {key: value for key, value in row.items() if value}


def stranger(kept: Mapping[str, Any], now: slurm.Job) -> str | None:
    """Why a job is not the one that was submitted, or None; what was not kept, as by old versions, is not compared.

    A job that is queued again counts as submitted anew.
    """
    found = {"cluster_name": slurm.cluster_name() if "cluster_name" in kept else None, "name": now.name,
             "user": now.user}  # fmt: skip
    for key, value in found.items():
        if kept.get(key) and value and kept[key] != value:
            return f"job {now.id} has the {key.replace('_', ' ')} {value}, this run's had {kept[key]}"
        if key == "cluster_name" and kept.get(key) and not value:
            raise UserError(f"SLURM does not say which cluster this is, expected {kept[key]}")
    before, then = kept.get("submitted"), now.submitted
    if before is None or then is None or then == before or (then > before and now.restarts > 0):
        return None
    return f"job {now.id} was submitted at {_clock(then)}, this run's at {_clock(before)}"


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
