"""The story of one run, top to bottom: open, step, score, save, finish."""

import time
from collections.abc import Iterator
from pathlib import Path

from rich.progress import Progress
from torch import Tensor

from masksup.base.log import log, start_logging
from masksup.base.place import ALONE, Place
from masksup.base.signals import stop_requested
from masksup.config.schema import Config
from masksup.data.loader import train_loader
from masksup.data.split import train_dataset
from masksup.engine.features import feature_batches
from masksup.engine.optim import set_rates
from masksup.engine.schedule import onecycle_momentum, rate_factor
from masksup.evaluation.kept import Stopped
from masksup.exits import STOPPED
from masksup.runtime import fence, heartbeat
from masksup.runtime.join import joined
from masksup.runtime.progress import Meter, training_bar
from masksup.runtime.ranks import SAVE, TELL, signal_of, wish
from masksup.runtime.run_folder import as_in_folder, finished
from masksup.training import patience
from masksup.training.diverged import raise_bad_gradient
from masksup.training.loop_log import log_step
from masksup.training.open import open_training
from masksup.training.run import Run
from masksup.training.save import alarm, make_sure_it_is_saved, save
from masksup.training.score_run import finish, score_epoch
from masksup.training.solve import solve_head


def train(config: Config, run_dir: Path, place: Place = ALONE) -> int:
    """Train, or go on with, the run in `run_dir`. Returns the exit status: 0 finished, 75 stopped on request.

    `place`: this process among the ranks of its job, all of which call this.
    """
    start_logging(rank=place.rank)
    with joined(place, config) as group:
        done = False
        with group.together():
            if group.first:  # what the others see of a shared folder may be older
                config = as_in_folder(run_dir, config)
                done = finished(run_dir, config)
        config = group.broadcast(config)
        if group.broadcast(done):
            log.info(f"{run_dir}: this run is finished; its scores are in {run_dir / 'result.json'}")
            return 0
        return _to_the_end(open_training(config, run_dir, group))


def _to_the_end(run: Run) -> int:
    group = run.group
    # A launcher that fences the folder starts a sign of life of its own, earlier.
    beat = heartbeat.start(run.folder.path / "heartbeat.json", "") if group.first and not fence.is_set() else None
    try:
        with training_bar(run.plan.total_steps, run.at.step, shown=group.first) as bar:
            stopped = (_solve if run.config.optim.name == "lbfgs" else _loop)(run, bar)
        patience.tell(run)
        run.vote.drain()
        make_sure_it_is_saved(run)
        if not stopped:
            stopped = _finish(run)
            run.vote.drain()
        if stopped:
            log.info(f"stopped by {stopped} after step {run.at.step}; the same command goes on from here")
            return STOPPED
        return 0
    finally:
        if beat is not None:
            beat()
        run.saver.wait()
        run.record.close()


def _finish(run: Run) -> str | None:
    """Score the run at its end. The signal that cut this off, if one did; the last step was saved before."""
    heartbeat.note(phase="finishing")
    try:
        finish(run)
    except Stopped:
        name: str = max(run.group.all(stop_requested() or ""))
        run.record.event(run.at.step, f"stopped by {name}")
        return name
    return None


def _batches(run: Run) -> Iterator[list[dict[str, Tensor]]]:
    config, part, start, place = run.config, run.source.train, run.at.step, run.group.place
    if run.features:
        return feature_batches(run.features["train"], part, run.plan, start, config, place.rank, place.world)
    pin = run.stepper.device.type == "cuda"
    return train_loader(
        train_dataset(config, part, run.plan), run.plan, start, config.data.workers, place,
        prefetch=config.data.prefetch, pin_memory=pin,
    )  # fmt: skip


def _loop(run: Run, bar: Progress) -> str | None:
    """Step until the plan ends. The signal that asked to stop before that, if any did; the state is then saved."""
    config, at, plan, group = run.config, run.at, run.plan, run.group
    batches, meter, saved_at = _batches(run), Meter(), time.monotonic()
    heartbeat.note(phase="training", last_step=at.step, total_steps=plan.total_steps, best=_best(run))
    if not _score_if_due(run, meter):
        return _stop(run, stop_requested())
    while not patience.ended(run):
        began = time.perf_counter()
        group.beat("loading step", at.step)
        micro_batches = next(batches)
        waited = time.perf_counter() - began
        _note_broken(run, micro_batches)
        if at.step == run.started_at:
            group.beat("warming up")
            if micro_batches:
                run.stepper.warm_up(micro_batches[0], at.step, at.step / plan.total_steps)
        group.beat("in step", at.step)
        share = plan.share(at.step, group.place.rank, group.world)
        lr = config.optim.lr * rate_factor(config.schedule, plan, at.step)
        set_rates(run.stepper.engine.param_groups, lr, onecycle_momentum(config.schedule, plan, at.step))
        logs = run.stepper.step(micro_batches, at.step, at.step / plan.total_steps, share)
        run.stepper.catch_up()
        if run.ema is not None:
            run.ema.update(run.stepper.engine.network_state(), at.step)
        at.step += 1
        heartbeat.note(last_step=at.step)
        meter.add(0 if share.weightless else sum(len(batch["target"]) for batch in micro_batches), waited)
        if at.step % config.log.every_steps == 0 or at.step == plan.total_steps:
            log_step(run, logs, lr, meter, bar)
        if at.step in (run.started_at + 1, plan.total_steps):
            run.record.mark(at.step)
        _check_gradients(run, micro_batches)
        at.seconds += time.perf_counter() - began
        bar.update(bar.task_ids[0], completed=at.step)
        outcome = run.vote.cast(
            wish(stop_requested(), save=_save_due_by_time(run, saved_at), tell=bool(run.broken["train"].found))
        )
        if outcome == TELL:
            run.broken["train"].tell(group)
        if outcome > SAVE or not _score_if_due(run, meter):
            return _stop(run, signal_of(outcome))
        if outcome == SAVE or _save_due(run):
            save(run)
            saved_at = time.monotonic()
        alarm(run)
    return None


def _solve(run: Run, bar: Progress) -> str | None:
    """As `_loop` for a head that is solved, which is the only step of its run."""
    heartbeat.note(phase="training", last_step=run.at.step, total_steps=run.plan.total_steps, best=_best(run))
    fresh = run.at.step == 0
    if fresh and not solve_head(run):
        return _stop(run, stop_requested())
    heartbeat.note(last_step=run.at.step)
    bar.update(bar.task_ids[0], completed=run.at.step)
    if not _score_if_due(run, Meter()):
        return _stop(run, stop_requested())
    if fresh:
        save(run)
    return None


def _note_broken(run: Run, micro_batches: list[dict[str, Tensor]]) -> None:
    for batch in micro_batches:
        if "broken" in batch:  # features of a frozen backbone are of readable images
            run.broken["train"].note(batch["broken"], batch["sample"])


def _check_gradients(run: Run, micro_batches: list[dict[str, Tensor]]) -> None:
    # On a GPU reading the counter would make it wait, so there it is read with the log lines only.
    step, limit = run.at.step, run.config.optim.max_skipped
    if run.stepper.device.type == "cuda" and step % run.config.log.every_steps:
        return
    if int(run.stepper.engine.skipped_in_row) < limit:
        return
    raise_bad_gradient(run, micro_batches)


def _score_if_due(run: Run, meter: Meter) -> bool:
    """Score the evaluation part where an epoch has just ended. False if a signal cut it off."""
    at, every = run.at, run.config.eval.every_epochs
    if run.source.eval is None or at.step == 0 or at.scored_step == at.step:
        return True
    epoch, before = run.plan.epoch_of(at.step) + 1e-9, run.plan.epoch_of(at.step - 1) + 1e-9
    if epoch // every == before // every and at.step < run.plan.total_steps:
        return True
    began = time.perf_counter()
    heartbeat.note(phase="evaluating")
    try:
        improved = score_epoch(run)
    except Stopped:
        return False
    heartbeat.note(phase="training", best=_best(run))
    at.scored_step = at.step
    meter.pause(time.perf_counter() - began)
    at.seconds += time.perf_counter() - began
    if improved:
        save(run)
    return True


def _best(run: Run) -> float | None:
    return run.at.best["mAP"] if run.at.best else None


def _save_due(run: Run) -> bool:
    every, step = run.config.checkpoint.every_steps, run.at.step
    return (every > 0 and step % every == 0) or patience.ended(run)


def _save_due_by_time(run: Run, saved_at: float) -> bool:
    """By the clock of rank 0, since clocks differ and a save is collective."""
    return run.group.first and time.monotonic() - saved_at > 60 * run.config.checkpoint.every_minutes


def _stop(run: Run, name: str | None) -> str:
    """Save because of a signal; where it came to another rank during an evaluation, its name is that rank's."""
    name = max(run.group.all(name or stop_requested() or ""))
    save(run, None)
    run.record.event(run.at.step, f"stopped by {name}")
    return name
