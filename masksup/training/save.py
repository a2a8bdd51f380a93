"""Saving a run: when the disk takes it, what becomes of a checkpoint that it refuses."""

from pathlib import Path
from typing import Any

from masksup.base.files import remedy
from masksup.base.log import log
from masksup.config.load import dump
from masksup.engine.state import collect
from masksup.errors import UserError
from masksup.runtime.checkpoint import snapshot
from masksup.runtime.saver import PATIENCE
from masksup.training.run import Run


def save(run: Run, patience: float | None = PATIENCE) -> None:
    """Begin to write a checkpoint of the run as it is now. `best` is the one it was improved in last. Collective.

    patience: how many seconds the disk is waited for that still writes the one before; then this one is left out, which
    an alarm says, unless it is the best so far. None: as long as it takes.
    """
    group, progress = run.group, run.progress
    group.beat_without_limit("waiting for the disk")
    if not group.broadcast(group.first and _disk_takes_it(run, patience)):
        return
    group.beat("collecting step", progress.step)
    run.broken["train"].tell(group)
    tensors, meta = collect(run.stepper, run.ema, group)
    if not group.first:
        return
    run.record.mark(progress.step)
    flushed = run.record.flushing()  # first, so that no curve has a hole before the step that a run goes on from
    state = snapshot(tensors, facts(run, meta))
    run.saver.save(state, state.meta["name"], progress.best, flushed)


def facts(run: Run, engine: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says besides its tensors, as JSON values; `engine`: what the engine says."""
    progress = run.progress
    progress.broken = {name: sorted(images.known) for name, images in run.broken.items()}
    return {
        "name": run.saver.name(progress.step), "step": progress.step, "epoch": run.plan.epoch_shown(progress.step),
        "at": vars(progress), "hashes": run.source.hashes, "classes": run.source.classes,
        "note": run.source.train.index.note, "reading": run.source.train.index.reading.to_json(),
        "config": dump(run.config), "threads": run.threads,
        "machine": run.machine, **engine,
    }  # fmt: skip


def _disk_takes_it(run: Run, patience: float | None) -> bool:
    """Whether the run is to be saved now, once it is known whether the best before it was."""
    progress, saver = run.progress, run.saver
    is_best = progress.best is not None and progress.best["checkpoint"] == saver.name(progress.step)
    free = saver.wait(patience)
    if free and not is_best:
        progress.best = saver.best
    if not (free or is_best):
        text = f"step {progress.step} is not saved, because the disk has been writing {saver.behind()}"
        log.error(f"ALARM: {text}; training goes on")
        run.record.event(progress.step, text)
    return free or is_best


def make_sure_it_is_saved(run: Run) -> None:
    """The last state must be on disk before a run calls itself stopped or finished; try twice. Collective."""
    last = run.folder.checkpoints / run.saver.name(run.progress.step)
    if not _saved(run, last):
        alarm(run)
        save(run, None)
        _saved(run, last)
    with run.group.together():
        if run.group.first and not last.is_dir():
            problem = run.saver.take_problem()
            if isinstance(problem, UserError):
                raise problem
            raise UserError(f"{last}: could not be saved: {problem}; {remedy(problem)} and run the same command again")


def _saved(run: Run, last: Path) -> bool:
    """Wait, as long as it takes, until the disk has done its work; whether `last` is there then. Collective."""
    run.group.beat_without_limit("waiting for the disk")
    if run.group.first and not run.saver.wait(PATIENCE):
        log.warning(f"waiting for the disk, which has been writing {run.saver.behind()}")
        run.saver.wait()
    return bool(run.group.broadcast(last.is_dir()))


def alarm(run: Run) -> None:
    """Tell of a checkpoint that could not be saved. UserError where nothing can be saved any more."""
    problem = run.saver.take_problem()
    if isinstance(problem, UserError):  # nothing can be saved there any more
        raise problem
    if problem is not None:
        log.error(f"ALARM: a checkpoint could not be saved, training goes on without it: {problem}")
        run.record.event(run.progress.step, f"save failed: {problem}")
