"""GPU-hours of a run: what was useful, and what was lost to start-up, to work done twice, and to waiting."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from launch.cluster.slurm import Accounted
from launch.ledger import Recovery, Start

# How far the launcher's first sign of life may be from the start that SLURM notes (whole seconds, and its own delay).
_SLACK_S = 5.0


@dataclass(frozen=True)
class Hours:
    """GPU-hours; the four add up to what was allocated. A run without GPUs counts as one."""

    useful: float
    startup: float
    """Until the first step of each start, and while ranks were forked anew."""
    redone: float
    """Steps that the next start, or forked ranks, had to do again, because they were not saved."""
    waiting: float
    """After the last step: ranks that hang or are gone, and SLURM clearing up."""

    @property
    def lost(self) -> float:
        return self.startup + self.redone + self.waiting

    @property
    def total(self) -> float:
        return self.useful + self.lost


def gpu_hours(
    history: Sequence[Start],
    accounts: Sequence[Accounted] | None,
    now: float | None = None,
    recoveries: Sequence[Recovery] = (),
) -> Hours:
    """Sum over the starts of a run; `accounts`, where the cluster keeps them, say what each was given, and how long.

    A start that loses a node holds fewer GPUs from then on; its mean is taken for all of its parts.
    """
    moment = time.time() if now is None else now
    left = list(accounts or [])
    sums = [0.0, 0.0, 0.0, 0.0]
    for start, after in zip(history, [*history[1:], None]):
        rows = [row for row in left if _same(row, start, moment)]
        left = [row for row in left if row not in rows]
        own = [recovery for recovery in recoveries if recovery.start == start.number]
        seconds, held = _accounted(rows, start) if rows else _noted(start, _end(start, moment), own)
        for k, part in enumerate(_split(start, after, seconds, moment, own)):
            sums[k] += part * (held / seconds if seconds else 0.0) / 3600
    # Starts that ended before the launcher could note them.
    usual = max([start.gpus for start in history], default=0)
    sums[1] += sum(row.seconds * (usual if row.gpus is None else row.gpus or 1) for row in left) / 3600
    return Hours(*sums)


def _same(row: Accounted, start: Start, now: float) -> bool:
    """Whether a row is the start, or the part of it before or after a node was lost."""
    if row.id != start.job or row.start is None:
        return False
    within = row.start - _SLACK_S <= start.began <= (row.end or float("inf")) + _SLACK_S
    return within or start.began < row.start <= _end(start, now)


def _accounted(rows: Sequence[Accounted], start: Start) -> tuple[float, float]:
    """Seconds and GPU-seconds of a start by SLURM's accounts."""
    seconds = [float(row.seconds) for row in rows]
    return sum(seconds), sum(s * ((start.gpus if row.gpus is None else row.gpus) or 1) for s, row in zip(seconds, rows))


def _noted(start: Start, end: float, recoveries: Sequence[Recovery]) -> tuple[float, float]:
    """Seconds and GPU-seconds by the launcher's notes: a rank has one GPU, and after a recovery there may be fewer."""
    gpus, since, held = start.gpus or 1, start.began, 0.0
    for recovery in recoveries:
        until = min(max(recovery.agreed, since), max(end, since))
        held, since, gpus = held + gpus * (until - since), until, max(min(gpus, recovery.ranks), 1)
    return max(end - start.began, 0.0), held + gpus * max(end - since, 0.0)


def _end(start: Start, now: float) -> float:
    if start.ended is not None:
        return start.ended
    return now if start.outcome is None else start.last_seen or start.began


def _split(
    start: Start, after: Start | None, seconds: float, now: float, recoveries: Sequence[Recovery]
) -> tuple[float, float, float, float]:
    """Useful, start-up, redone, waiting seconds of one start."""
    first, last, first_at, last_at = start.first_step, start.last_step, start.first_step_at, start.last_step_at
    if first is None or last is None or first_at is None or last_at is None:
        return 0.0, seconds, 0.0, 0.0
    startup = min(max(first_at - start.began, 0.0), seconds)
    until = _end(start, now) if start.outcome in ("done", None) else last_at  # scoring after the last step counts
    trained = min(max(until - first_at, 0.0), seconds - startup)
    stood = min(sum((recovery.ready or recovery.agreed) - recovery.broke for recovery in recoveries), trained)
    trained, startup = trained - stood, startup + stood
    steps, redone = last - first, sum(recovery.redone for recovery in recoveries)
    if after is not None and after.first_step is not None:
        redone += min(max(last - after.first_step, 0), steps)
    done = steps + sum(recovery.redone for recovery in recoveries)
    again = trained * redone / done if done > 0 else 0.0
    return trained - again, startup, again, seconds - startup - trained
