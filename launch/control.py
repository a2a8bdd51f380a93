"""cancel, requeue, logs, resume: what a person does to runs that were submitted."""

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from launch.cluster import local, slurm
from launch.cluster.active import Seen, look, recognise
from launch.cluster.resources import joined
from launch.ledger import Folder, job_of, read_json, starts
from launch.start.decide import crashes_in_vain
from launch.submit import hand_in
from launch.watch.status import find_runs
from masksup.base.files import write_atomically
from masksup.base.words import counted
from masksup.config.load import load_config
from masksup.errors import UserError

_PAUSE_S = 1.0
_ASK_EVERY = 10
"""Pauses between two questions to SLURM."""


def chosen(paths: list[Path]) -> list[Folder]:
    """The runs at or below the paths. UserError for a path that holds none."""
    found: list[Folder] = []
    for path in paths:
        below = find_runs(path.absolute())
        if not below:
            raise UserError(f"{path}: no run there, expected a run folder or a folder that holds some")
        found += [Folder(run) for run in below]
    return found


def to_each(paths: list[Path], act: Callable[[Folder, Seen], bool]) -> tuple[int, int]:
    """Do something to each run of ours. What hinders one run is told and hinders no other.

    Returns how many runs it was done to (where `act` says so), and how many it failed for.
    """
    done, failed = 0, 0
    ours = []
    for folder in chosen(paths):
        if folder.closed_by is not None:
            failed += 1
            print(f"{folder.run}: this run is {folder.closed_by}'s; you may not look into it", file=sys.stderr)
        else:
            ours.append(folder)
    for folder, seen in look(ours).items():
        try:
            if seen.stranger is not None:
                print(f"{folder.run}: {seen.stranger}, so nothing is done to it")
            done += act(folder, seen)
        except (UserError, OSError) as error:
            failed += 1
            print(f"{folder.run}: {error}", file=sys.stderr)
    return done, failed


def cancel(paths: list[Path], now: bool) -> int:
    """Ask runs to save and leave for good; `now` does not let them save. Those that are not active are left alone."""

    def act(folder: Folder, seen: Seen) -> bool:
        if seen.job is None or not seen.active:
            print(f"{folder.run}: not active")
            return False
        write_atomically(folder.cancelled, f"{time.time()}\n")
        if local.is_local(seen.job):
            signal_local(folder, signal.SIGKILL if now else signal.SIGUSR2)
        elif not now and _running(seen):
            slurm.ask_to_leave(seen.job)  # its launcher asks again as long as the run is marked as cancelled
        else:
            slurm.call("scancel", seen.job)
        print(f"{folder.run}: job {seen.job} " + ("ended" if now else "was asked to save and leave"))
        return True

    _, failed = to_each(paths, act)
    return 2 if failed else 0


def requeue(paths: list[Path]) -> int:
    """Ask running runs to save, leave, and wait in the queue again. The status is 2 where none of them is active."""

    def act(folder: Folder, seen: Seen) -> bool:
        if seen.job is None or not seen.active:
            print(f"{folder.run}: not active, so it cannot be queued again; masksup-launch resume submits it",
                  file=sys.stderr)  # fmt: skip
            return False
        if local.is_local(seen.job):
            signal_local(folder, signal.SIGUSR2)
        elif _running(seen):
            if problem := slurm.ask_to_leave(seen.job):
                raise UserError(f"job {seen.job}: {problem}; ask again in a moment")
        else:
            print(f"{folder.run}: job {seen.job} waits already")
            return True
        print(f"{folder.run}: job {seen.job} was asked to save and to queue again")
        return True

    done, failed = to_each(paths, act)
    return 2 if failed or not done else 0


def signal_local(folder: Folder, number: signal.Signals) -> None:
    """Signal the ranks of a local run. Any one that is asked to leave tells the others."""
    beat = read_json(folder.heartbeat)
    ranks = local.ranks(folder)
    asked = ranks if number == signal.SIGKILL else [rank for rank in ranks if rank == beat.get("pid")]
    for rank in asked:
        with suppress(ProcessLookupError):
            os.kill(rank, number)


def _running(seen: Seen) -> bool:
    return seen.now is not None and seen.now.state == "RUNNING"


def resume(paths: list[Path], options: dict[str, object], overrides: Sequence[str] = ()) -> int:
    """Submit runs again that are neither finished nor active, with what they were submitted with before.

    options: resources, and overrides: settings of operation, in place of those.
    """
    jobs: dict[str, Folder] = {}

    def act(folder: Folder, seen: Seen) -> bool:
        if folder.result.exists() or seen.active:
            print(f"{folder.run}: " + ("finished" if folder.result.exists() else f"job {seen.job} is active"))
            return False
        row = read_json(folder.job)
        resources = joined({str(folder.job): row.get("resources", {}), "command line": options})
        config = load_config(folder.config, overrides)[0]
        done = hand_in([(folder.run, config)], resources, row.get("cluster", "slurm"), f"masksup-{folder.run.name}",
                       folder.path, {folder: seen})  # fmt: skip
        jobs[done[0].job] = folder
        crashes = crashes_in_vain(starts(folder))
        anew = f"; {counted(crashes, 'crash')} forgiven, and counted anew" if crashes else ""
        print(f"{folder.run}: job {done[0].job}{anew}")
        return True

    _, failed = to_each(paths, act)
    recognise(jobs)
    return 2 if failed else 0


def logs(path: Path, rank: int, start: int | None, launcher: bool, follow: bool) -> int:
    """Print what a rank of the newest (or another) start wrote, or what the launcher itself did.

    follow: go on, also with the next start, until the run is finished or neither runs nor waits.
    """
    folders = chosen([path])
    if len(folders) > 1:
        raise UserError(f"{path}: found {counted(len(folders), 'run')} there, expected one, such as {folders[0].run}")
    folder = folders[0]
    file = _log(folder, rank, start, launcher)
    if file is None:
        raise UserError(
            f"{folder.run}: found no such log of {counted(len(starts(folder)), 'start')}; see {folder.run / 'logs'}"
        )
    lines = file.open(encoding="utf-8", errors="replace")
    for turn in itertools.count():
        # Asked before the rest is read, so that nothing is written in between.
        over = not follow or folder.result.exists() or (turn % _ASK_EVERY == 1 and not _comes_back(folder))
        newest = _log(folder, rank, start, launcher)
        sys.stdout.write(lines.read())
        sys.stdout.flush()
        if newest is not None and newest != file:
            lines.close()
            file, lines = newest, newest.open(encoding="utf-8", errors="replace")
        elif over:
            break
        else:
            time.sleep(_PAUSE_S)
    lines.close()
    return 0


def _log(folder: Folder, rank: int, start: int | None, launcher: bool) -> Path | None:
    if launcher:
        home = Path(read_json(folder.job).get("home", folder.path))
        job = job_of(folder) or ""
        files = [
            *home.glob(f"submitit/{job}_*_log.out"),
            *home.glob(f"submitit/{job}.out"),
            *home.glob("submitit/local-*.log"),
        ]
        return max(files, key=lambda file: file.stat().st_mtime, default=None)
    history = starts(folder)
    number = f"{start or history[-1].number:03d}-" if history else None
    # Without a number: a run without the launcher. Older versions say attempt.
    names = [""] if number is None else [f"start{number}", f"attempt{number}"]
    ranks = (file for name in names for file in (folder.run / "logs").glob(f"{name}rank*.log"))
    return next((file for file in ranks if int(file.stem.rpartition("rank")[2]) == rank), None)


def _comes_back(folder: Folder) -> bool:
    return look([folder])[folder].active
