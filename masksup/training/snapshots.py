"""Snapshots of a run in memory (`masksup.runtime.shelf`), from which it goes on within seconds when a rank dies."""

import time

from masksup.engine.state import own_state
from masksup.runtime.checkpoint import snapshot
from masksup.runtime.shelf import part_of
from masksup.training.run import Run
from masksup.training.save import facts


def take_snapshot(run: Run) -> None:
    """Keep the state as it is now, each rank its part. Collective."""
    began, group, progress = time.monotonic(), run.group, run.progress
    group.beat("keeping step", progress.step)
    # What is the best so far must be on disk: the run may go on from here without the process that writes it.
    if any(group.all(run.snapshots.busy or run.saver.behind() is not None)):
        return
    if group.first:
        progress.best = run.saver.best
    run.broken["train"].tell(group)
    tensors, engine = own_state(run.stepper, run.ema)
    meta = group.broadcast(facts(run, {**engine, "ranks": group.world}) if group.first else None)
    run.record.mark(progress.step)
    run.record.flush()  # so that no curve has a hole before the step that a run goes on from
    part = part_of(tensors, group.place.local_rank, group.place.local_world)
    run.snapshots.put(snapshot(part, {**meta, "kept_tensors": len(tensors)}), progress.step)
    run.snapshots.stalls.append(time.monotonic() - began)
