"""Bringing a tracker up to date with run folders: once, or as long as the runs last."""

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from masksup.base.log import log
from masksup.base.words import counted
from masksup.errors import JobError, UserError
from masksup.track.run import TrackedRun, read_run
from masksup.track.tracker import Tracker


def track(
    folders: Sequence[Path], tracker: Tracker, name: str, *, artifacts: bool = False, every: float | None = None
) -> None:
    """Send what the tracker, called `name`, does not have of the runs.

    artifacts: files, too, once a run has ended, or at once where it is not followed.
    every: seconds between two looks, until all runs have their result or were cancelled; None: look once.

    UserError where a folder is no run, or another process tracks it. A tracker that does not answer ends a single look
    with a JobError; who follows says so, and tries again.
    """
    for folder in folders:
        read_run(folder)  # whatever is wrong with one is told before anything is sent
    with ExitStack() as locks:
        for folder in folders:
            locks.enter_context(_alone(folder, name))
        try:
            left, silent = list(folders), False
            while left:
                try:
                    left, silent = [folder for folder in left if not _look(folder, tracker, artifacts, every)], False
                except JobError as error:
                    if every is None:
                        raise
                    if not silent:
                        log.warning(f"{error}; trying again every {every:g} s")
                    silent = True
                if every is None:
                    return
                time.sleep(every if left else 0)
        finally:
            tracker.close()


def _look(folder: Path, tracker: Tracker, artifacts: bool, every: float | None) -> bool:
    """Send what is new of a run. Whether that was the last of it."""
    run = read_run(folder)
    if run is None:
        if every is None:
            log.info(f"{folder}: not started yet, so there is nothing to send")
        return False
    ended = run.state != "going on"
    sent = tracker.send(run, artifacts=artifacts and (ended or every is None))
    if sent or every is None or ended:
        log.info(_line(run, tracker, sent))
    return ended


def _line(run: TrackedRun, tracker: Tracker, sent: int) -> str:
    newest = max((point.step for point in run.points), default=0)
    new = f"{counted(sent, 'new point')} up to step {newest}" if sent else "no new points"
    return f"{run.folder} ({run.state}): {new}; see {tracker.where(run)}"


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Two processes that ask at once what is missing would both send it."""
    with ExitStack() as held:
        with suppress(OSError):  # somebody else's run folder may be read, and some file systems have no locks
            file = held.enter_context((folder / f".track-{name}.lock").open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{folder}: another process sends this run to {name} already") from None
        yield
