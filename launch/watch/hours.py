"""GPU-hours of a run: what was useful, and what was lost to start-up, to work done twice, and to waiting."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from launch.cluster.slurm import Accounted
from launch.start.ledger import Attempt

# How far the launcher's first sign of life may be from the start that SLURM notes (whole seconds, and its own delay).
_SLACK_S = 5.0


@dataclass(frozen=True)
class Hours:
    """GPU-hours; the four add up to what was allocated. A run without GPUs counts as one."""

    useful: float
    startup: float
    """Until the first step of each start."""
    redone: float
    """Steps that the next start had to do again, because they were not saved."""
    waiting: float
    """After the last step: ranks that hang or are gone, and SLURM clearing up."""

    @property
    def lost(self) -> float:
        return self.startup + self.redone + self.waiting

    @property
    def total(self) -> float:
        return self.useful + self.lost


def gpu_hours(history: Sequence[Attempt], accounts: Sequence[Accounted] | None, now: float | None = None) -> Hours:
    """Sum over the starts of a run; `accounts`, where the cluster keeps them, say how long each was allocated."""
    moment = time.time() if now is None else now
    left = list(accounts or [])
    sums = [0.0, 0.0, 0.0, 0.0]
    gpus = max([attempt.gpus for attempt in history], default=0) or 1
    for attempt, after in zip(history, [*history[1:], None]):
        row = next((row for row in left if _same(row, attempt)), None)
        if row is not None:
            left.remove(row)
        seconds = row.seconds if row is not None else _end(attempt, moment) - attempt.began
        for k, part in enumerate(_split(attempt, after, max(seconds, 0.0), moment)):
            sums[k] += part * (attempt.gpus or 1) / 3600
    # Starts that ended before the launcher could note them.
    sums[1] += sum(row.seconds for row in left) * gpus / 3600
    return Hours(*sums)


def _same(row: Accounted, attempt: Attempt) -> bool:
    if row.id != attempt.job or row.start is None:
        return False
    return row.start - _SLACK_S <= attempt.began <= (row.end or float("inf")) + _SLACK_S


def _end(attempt: Attempt, now: float) -> float:
    if attempt.ended is not None:
        return attempt.ended
    return now if attempt.outcome is None else attempt.last_seen or attempt.began


def _split(attempt: Attempt, after: Attempt | None, seconds: float, now: float) -> tuple[float, float, float, float]:
    """Useful, start-up, redone, waiting seconds of one start."""
    first, last, first_at, last_at = attempt.first_step, attempt.last_step, attempt.first_step_at, attempt.last_step_at
    if first is None or last is None or first_at is None or last_at is None:
        return 0.0, seconds, 0.0, 0.0
    startup = min(max(first_at - attempt.began, 0.0), seconds)
    until = _end(attempt, now) if attempt.outcome in ("done", None) else last_at  # scoring after the last step counts
    trained = min(max(until - first_at, 0.0), seconds - startup)
    again = 0.0
    if after is not None and after.first_step is not None and last > first:
        again = trained * min(max(last - after.first_step, 0), last - first) / (last - first)
    return trained - again, startup, again, seconds - startup - trained
