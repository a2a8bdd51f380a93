"""cancel, requeue, logs, resume: what a person does to runs that were submitted."""

import sys
import time
from pathlib import Path

from launch import local, slurm
from launch.ledger import Folder, attempts, job_of, read_json
from launch.resources import Resources
from launch.status import find_runs
from launch.submit import is_active, submit
from masksup.config_file import load_config
from masksup.errors import UserError
from masksup.runtime.files import write_atomically


def chosen(paths: list[Path]) -> list[Folder]:
    """The runs at or below the paths. UserError for a path that holds none."""
    found: list[Folder] = []
    for path in paths:
        below = find_runs(path.absolute())
        if not below:
            raise UserError(f"{path}: no run there, expected a run folder or a folder that holds some")
        found += [Folder(run) for run in below]
    return found


def cancel(paths: list[Path], now: bool) -> int:
    """Ask runs to save and leave for good; `now` does not let them save. Those that are not active are left alone."""
    for folder in chosen(paths):
        job = job_of(folder)
        if job is None or not is_active(folder, job):
            print(f"{folder.run}: not active")
            continue
        write_atomically(folder.cancelled, f"{time.time()}\n")
        if job.startswith("local-"):
            ask_local(folder)
        elif not now and _running(job):
            ask(folder, job)
        else:
            slurm.call("scancel", job)
        print(f"{folder.run}: job {job} " + ("ended" if now else "was asked to save and leave"))
    return 0


def requeue(paths: list[Path]) -> int:
    """Ask running runs to save, leave, and wait in the queue again."""
    for folder in chosen(paths):
        job = job_of(folder)
        if job is None or not is_active(folder, job):
            raise UserError(f"{folder.run}: not active, so it cannot be queued again; masksup-launch resume submits it")
        if job.startswith("local-"):
            ask_local(folder)
        elif _running(job):
            ask(folder, job)
        else:
            print(f"{folder.run}: job {job} waits already")
            continue
        print(f"{folder.run}: job {job} was asked to save and to queue again")
    return 0


def ask(folder: Folder, job: str) -> None:
    """Signal the ranks of a job; its launcher repeats that for one that is cancelled."""
    problem = slurm.ask_to_leave(job)
    if problem is not None:
        print(f"{folder.run}: job {job}: {problem}", file=sys.stderr)


def ask_local(folder: Folder) -> None:
    """Signal the ranks of a local run."""
    import os
    import signal

    beat = read_json(folder.heartbeat)
    history = attempts(folder)
    if history and history[-1].outcome is None and local.rank_of(beat, folder):
        os.kill(int(beat["pid"]), signal.SIGUSR2)


def _running(job: str) -> bool:
    found = slurm.queue([job]).get(job)
    return found is not None and found.state == "RUNNING"


def resume(paths: list[Path], options: dict[str, object]) -> int:
    """Submit runs again that are neither finished nor active, with what they were submitted with before."""
    for folder in chosen(paths):
        row = read_json(folder.job)
        job = job_of(folder)
        if folder.result.exists() or (job is not None and is_active(folder, job)):
            print(f"{folder.run}: " + ("finished" if folder.result.exists() else f"job {job} is active"))
            continue
        resources = Resources.model_validate({**row.get("resources", {}), **options})
        config = load_config(folder.config)[0]
        done = submit([(folder.run, config)], resources, row.get("cluster", "slurm"), f"masksup-{folder.run.name}",
                      folder.path)  # fmt: skip
        print(f"{folder.run}: job {done[0].job}")
    return 0


def logs(path: Path, rank: int, attempt: int | None, launcher: bool, follow: bool) -> int:
    """Print what a rank of the newest (or another) start wrote, or what the launcher itself did."""
    folder = chosen([path])[0]
    history = attempts(folder)
    if launcher:
        home = Path(read_json(folder.job).get("home", folder.path))
        job = job_of(folder) or ""
        files = [
            *home.glob(f"submitit/{job}_*_log.out"),
            *home.glob(f"submitit/{job}.out"),
            *home.glob("submitit/local-*.log"),
        ]
        file = max(files, key=lambda file: file.stat().st_mtime, default=None)
    else:
        number = attempt or (history[-1].number if history else 0)
        matching = sorted((folder.run / "logs").glob(f"attempt{number:03d}-rank*.log"))
        file = next((file for file in matching if int(file.stem.rpartition("rank")[2]) == rank), None)
    if file is None:
        raise UserError(f"{folder.run}: no such log; there are {len(history)} starts; see {folder.run / 'logs'}")
    with file.open(encoding="utf-8", errors="replace") as lines:
        while True:
            sys.stdout.write(lines.read())
            sys.stdout.flush()
            if not follow or folder.result.exists():
                return 0
            time.sleep(0.5)
