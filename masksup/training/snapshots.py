"""Snapshots of a run in memory (`masksup.runtime.shelf`), from which it goes on within seconds when a rank dies."""

import time

from masksup.base.log import log
from masksup.base.memory import free_bytes
from masksup.base.words import counted
from masksup.config.auto import adds_as_tree
from masksup.config.schema import SNAPSHOT_SECONDS, Config
from masksup.engine.state import own_state
from masksup.runtime.checkpoint import snapshot
from masksup.runtime.shelf import Snapshots, part_of
from masksup.training.run import Run
from masksup.training.save import facts

_COPIES = 4
"""Of a part: two that are kept, and two while one is taken."""


def new_snapshots(config: Config, first: bool) -> Snapshots:
    """Those that a run takes. Where sums depend on the ranks, each rank has a state of its own, and none are taken."""
    every = config.checkpoint.snapshot_seconds
    snapshots = Snapshots(every if adds_as_tree(config) else 0)
    if first and every not in (0, SNAPSHOT_SECONDS) and not snapshots.taken:  # somebody asked for them
        log.warning(
            "checkpoint.snapshot_seconds: no snapshots are taken; only runs of masksup-launch with parallel.engine=ddp "
            "and parallel.sum=tree have them"
        )
    return snapshots


def take_snapshot(run: Run) -> None:
    """Keep the state as it is now, each rank its part. Collective."""
    began, group, progress, snapshots = time.monotonic(), run.group, run.progress, run.snapshots
    group.beat("keeping step", progress.step)
    # What is the best so far must be on disk: the run may go on from here without the process that writes it.
    if any(group.all(snapshots.busy or run.saver.behind() is not None)):
        return
    tensors, engine = own_state(run.stepper, run.ema)
    part = part_of(tensors, group.place.local_rank, group.place.local_world)
    if not _room(run, sum(value.nbytes for value in part.values())):
        return
    if group.first:
        progress.best = run.saver.best
    run.broken["train"].tell(group)
    meta = group.broadcast(facts(run, {**engine, "ranks": group.world}) if group.first else None)
    run.record.mark(progress.step)
    run.record.flush()  # so that no curve has a hole before the step that a run goes on from
    snapshots.put(snapshot(part, {**meta, "kept_tensors": len(tensors)}), progress.step)
    snapshots.note(time.monotonic() - began)


def tell_snapshots(run: Run) -> None:
    """What the snapshots of this process cost, in its log."""
    if run.snapshots.count:
        count, longest = counted(run.snapshots.count, "snapshot"), run.snapshots.longest
        log.info(f"{count} in memory; the longest held the training up for {longest:.3f} s")


def _room(run: Run, size: int) -> bool:
    """Whether every node has the memory for snapshots, asked before the first; else there are none. Collective."""
    if run.snapshots.count:
        return True
    place = run.group.place
    wanted, free = float(place.local_world * max(_COPIES * size - run.snapshots.held(), 0)), free_bytes()
    short = [row for row in run.group.all((wanted, free)) if row[0] > row[1]]
    if short:
        wanted, free = (number / 2**20 for number in short[0])
        run.snapshots.give_up()
        if place.first:
            log.warning(
                f"checkpoint.snapshot_seconds: no snapshots are taken: they need {wanted:,.1f} MiB on a node, found "
                f"{free:,.1f} MiB free; when a rank dies the run goes on from its newest checkpoint"
            )
    return not short
