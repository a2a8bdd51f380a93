"""What is due after a step: an evaluation, a save."""

import time

from masksup.evaluation.kept import Stopped
from masksup.runtime import heartbeat
from masksup.runtime.progress import Meter
from masksup.training import patience
from masksup.training.run import Run
from masksup.training.save import save
from masksup.training.score_run import score_epoch


def score_if_due(run: Run, meter: Meter) -> bool:
    """Score the evaluation part where an epoch has just ended. False if a signal cut it off."""
    progress = run.progress
    if not scoring_is_due(run) or progress.scored_step == progress.step:
        return True
    began = time.perf_counter()
    heartbeat.note(phase="evaluating")
    try:
        improved = score_epoch(run)
    except Stopped:
        return False
    heartbeat.note(phase="training", best=best(run))
    progress.scored_step = progress.step
    meter.pause(time.perf_counter() - began)
    progress.seconds += time.perf_counter() - began
    if improved:
        save(run)
    return True


def scoring_is_due(run: Run) -> bool:
    """Whether an epoch that is scored, or the run, ends with the step that was just made."""
    step, every = run.progress.step, run.config.eval.every_epochs
    if run.source.eval is None or step == 0:
        return False
    epoch, before = run.plan.epoch_of(step) + 1e-9, run.plan.epoch_of(step - 1) + 1e-9
    return epoch // every != before // every or step == run.plan.total_steps


def best(run: Run) -> float | None:
    return run.progress.best["mAP"] if run.progress.best else None


def save_due(run: Run) -> bool:
    every, step = run.config.checkpoint.every_steps, run.progress.step
    return (every > 0 and step % every == 0) or patience.ended(run)


def save_due_by_time(run: Run, saved_at: float) -> bool:
    """By the clock of rank 0, since clocks differ and a save is collective."""
    return run.group.first and time.monotonic() - saved_at > 60 * run.config.checkpoint.every_minutes
