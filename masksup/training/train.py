"""The story of one run, top to bottom: open, step, score, save, finish."""

import time
from pathlib import Path

from masksup.base.log import log, start_logging
from masksup.base.place import ALONE, Place
from masksup.base.signals import stop_requested
from masksup.config.schema import Config
from masksup.engine.optim import set_rates
from masksup.engine.schedule import rates_at
from masksup.evaluation.kept import Stopped
from masksup.exits import STOPPED
from masksup.runtime import fence, heartbeat
from masksup.runtime.join import joined
from masksup.runtime.progress import Bar, Meter, training_bar
from masksup.runtime.ranks import KEEP, SAVE, TELL, signal_of, wish
from masksup.training import patience
from masksup.training.batches import micro_batches, note_broken
from masksup.training.diverged import check_gradients
from masksup.training.due import best, save_due, save_due_by_time, score_if_due, scoring_is_due
from masksup.training.loop_log import log_step
from masksup.training.open import as_begun, open_training
from masksup.training.run import Run
from masksup.training.save import alarm, make_sure_it_is_saved, save
from masksup.training.score_run import finish
from masksup.training.snapshots import take_snapshot, tell_snapshots
from masksup.training.solve import solve_head


def train(config: Config, run_dir: Path, place: Place = ALONE) -> int:
    """Train, or go on with, the run in `run_dir`. Returns the exit status: 0 finished, 75 stopped on request.

    `place`: this process among the ranks of its job, all of which call this.
    """
    start_logging(rank=place.rank)
    with joined(place, config) as group:
        config, done = as_begun(config, run_dir, group)
        if done:
            return 0
        run = open_training(config, run_dir, group)
        heartbeat.note(ranks=group.world)
        # A launcher that fences the folder starts a sign of life of its own, earlier.
        beat = heartbeat.start(run_dir / "heartbeat.json", "") if group.first and not fence.is_set() else None
        try:
            with training_bar(run.plan.total_steps, run.progress.step, shown=group.first) as bar:
                stopped = (_solve if config.optim.name == "lbfgs" else _loop)(run, bar)
            patience.tell(run)
            tell_snapshots(run)
            run.vote.drain()
            make_sure_it_is_saved(run)
            if not stopped:
                stopped = _finish(run)
                run.vote.drain()
            if stopped:
                log.info(f"stopped by {stopped} after step {run.progress.step}; the same command goes on from here")
            return STOPPED if stopped else 0
        finally:
            if beat is not None:
                beat()
            run.saver.wait()
            run.record.close()


def _loop(run: Run, bar: Bar) -> str | None:
    """Step until the plan ends. The signal that asked to stop before that, if any did; the state is then saved."""
    config, progress, plan, group = run.config, run.progress, run.plan, run.group
    first, batches, meter, saved_at = progress.step, micro_batches(run), Meter(), time.monotonic()
    heartbeat.note(phase="training", last_step=first, total_steps=plan.total_steps, best=best(run))
    if not score_if_due(run, meter):
        return _stop(run, stop_requested())
    while not patience.ended(run):
        began = time.perf_counter()
        group.beat("loading step", progress.step)
        step_batches = next(batches)
        waited = time.perf_counter() - began
        note_broken(run, step_batches)
        if progress.step == first:
            group.beat("warming up")
            if step_batches:
                run.stepper.warm_up(step_batches[0], first, first / plan.total_steps)
        group.beat("in step", progress.step)
        share = plan.share(progress.step, group.place.rank, group.world)
        lr, momentum = rates_at(config, plan, progress.step)
        set_rates(run.stepper.engine.param_groups, lr, momentum)
        logs = run.stepper.step(step_batches, progress.step, progress.step / plan.total_steps, share)
        run.stepper.catch_up()
        if run.ema is not None:
            run.ema.update(run.stepper.engine.network_state(), progress.step)
        progress.step += 1
        heartbeat.note(last_step=progress.step)
        meter.add(0 if share.weightless else sum(len(batch["target"]) for batch in step_batches), waited)
        if config.log.due(progress.step, plan.total_steps) or scoring_is_due(run):
            log_step(run, logs, lr, meter, bar)
        if progress.step in (first + 1, plan.total_steps):
            run.record.mark(progress.step)
        check_gradients(run, step_batches)
        progress.seconds += time.perf_counter() - began
        bar.update(bar.task_ids[0], completed=progress.step)
        keep, tell = run.snapshots.due(group.first), bool(run.broken["train"].found)
        outcome = run.vote.cast(wish(stop_requested(), save_due_by_time(run, saved_at), keep, tell))
        if outcome == TELL:
            run.broken["train"].tell(group)
        if outcome > SAVE or not score_if_due(run, meter):
            return _stop(run, signal_of(outcome))
        if outcome == SAVE or save_due(run):
            save(run)
            saved_at = time.monotonic()
        elif outcome == KEEP:
            take_snapshot(run)
        alarm(run)
    return None


def _solve(run: Run, bar: Bar) -> str | None:
    """As `_loop` for a head that is solved, which is the only step of its run."""
    heartbeat.note(phase="training", last_step=run.progress.step, total_steps=run.plan.total_steps, best=best(run))
    fresh = run.progress.step == 0
    if fresh and not solve_head(run):
        return _stop(run, stop_requested())
    heartbeat.note(last_step=run.progress.step)
    bar.update(bar.task_ids[0], completed=run.progress.step)
    if not score_if_due(run, Meter()):
        return _stop(run, stop_requested())
    if fresh:
        save(run)
    return None


def _stop(run: Run, name: str | None) -> str:
    """Save because of a signal; where it came to another rank during an evaluation, its name is that rank's."""
    name = max(run.group.all(name or stop_requested() or ""))
    save(run, None)
    run.record.event(run.progress.step, f"stopped by {name}")
    return name


def _finish(run: Run) -> str | None:
    """Score the run at its end. The signal that cut this off, if one did; the last step was saved before."""
    heartbeat.note(phase="finishing")
    log.info("all steps are done; the final scores and plots follow")
    try:
        finish(run)
    except Stopped:
        name: str = max(run.group.all(stop_requested() or ""))
        run.record.event(run.progress.step, f"stopped by {name}")
        return name
    return None
