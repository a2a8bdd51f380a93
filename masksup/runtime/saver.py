"""Saving while the training goes on: a thread writes checkpoints, one at a time, and `best` follows the disk."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masksup.base.log import log
from masksup.runtime import fence
from masksup.runtime.checkpoint import State, checkpoint_name, point, prune, write_checkpoint

PATIENCE = 30.0
"""Seconds for which the training waits for a disk that is still writing; then it goes on without it."""


def _nothing() -> None:
    """Nothing has to come before a checkpoint."""


class Saver:
    """A disk that refuses does not stop the training, nor does one that is slow.

    check: raises UserError once the folder is no longer the run's own; nothing is published there then.
    """

    def __init__(self, folder: Path, start: int, keep: int, check: Callable[[], None] = fence.check) -> None:
        self.folder, self.start, self.keep = folder, start, keep
        self.best: dict[str, Any] | None = None
        """The best score so far whose weights are on disk, as in `Progress.best`: what the link `best` means."""
        self._check = check
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next: tuple[State, str, dict[str, Any] | None, Callable[[], None]] | None = None
        self._writing: tuple[str, float] | None = None
        self._problem: Exception | None = None

    def name(self, step: int) -> str:
        """What a checkpoint of this start at `step` is called."""
        return checkpoint_name(step, self.start)

    def take_up(self, best: dict[str, Any] | None) -> None:
        """Go on with the best of the checkpoint that a run resumes from. A link that means another one goes.

        The link follows a checkpoint by a moment, and may be of steps that were done after this one.
        """
        self.best = best
        if best is not None and not (self.folder / best["checkpoint"]).is_dir():
            log.error(
                f"ALARM: {self.folder / best['checkpoint']}: the best checkpoint (mAP {best['mAP']:.2f}) is gone; "
                "the next that is scored counts as the best"
            )
            self.best = None
        if self.best is not None:
            point(self.folder, "best", self.best["checkpoint"])
        else:
            (self.folder / "best").unlink(missing_ok=True)

    def save(self, state: State, name: str, best: dict[str, Any] | None, first: Callable[[], None] = _nothing) -> None:
        """Begin to write `state` as `name`, or, while another is being written, have it written next.

        best: the best score, of this checkpoint or of one that is on disk; as in `Progress.best`.
        first: called by the thread before it writes.
        """
        with self._lock:
            self._next = (state, name, best, first)
            if self._writing is not None:
                return
            self._writing = (name, time.monotonic())
        self._thread = threading.Thread(target=self._work, name="checkpoint")
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all is written, for at most so many seconds; whether it is."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._writing is None

    def settled(self, best: dict[str, Any] | None) -> dict[str, Any] | None:
        """`best`, which may be on its way, or the best before it if that one could not be saved."""
        return self.best if self.wait(PATIENCE) else best

    def behind(self) -> str | None:
        """What is being written and for how long, in words; None if nothing is."""
        writing = self._writing
        return None if writing is None else f"{writing[0]} for {time.monotonic() - writing[1]:.0f} s"

    def take_problem(self) -> Exception | None:
        """The error of the last save, once."""
        problem, self._problem = self._problem, None
        return problem

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._next is None:
                    self._writing = None
                    return
                (state, name, best, first), self._next = self._next, None
                self._writing = (name, time.monotonic())
            try:
                first()
                self._write(state, name, best)
            except Exception as error:  # whatever it is, the training thread reports it and goes on
                self._problem = error

    def _write(self, state: State, name: str, best: dict[str, Any] | None) -> None:
        self._check()
        if not (self.folder / name).is_dir():
            write_checkpoint(self.folder, name, state)
        self._check()
        point(self.folder, "latest", name)
        if best is not None and (self.folder / best["checkpoint"]).is_dir():
            point(self.folder, "best", best["checkpoint"])
            self.best = best
        prune(self.folder, self.keep)
