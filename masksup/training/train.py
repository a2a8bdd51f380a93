"""The story of one run, top to bottom: open, step, score, save, finish."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from masksup.base.files import remedy
from masksup.base.log import log, start_logging
from masksup.base.place import ALONE, Place
from masksup.base.signals import stop_requested
from masksup.base.words import figure
from masksup.config.load import dump
from masksup.config.schema import Config
from masksup.data.dataset import TrainDataset
from masksup.data.loader import train_loader
from masksup.data.split import transform_settings
from masksup.data.transforms import train_transform
from masksup.engine.features import feature_batches
from masksup.engine.optim import set_rates
from masksup.engine.schedule import onecycle_momentum, rate_factor
from masksup.engine.state import collect
from masksup.errors import UserError
from masksup.evaluation.kept import Stopped
from masksup.exits import STOPPED
from masksup.runtime import fence, heartbeat
from masksup.runtime.checkpoint import snapshot
from masksup.runtime.progress import Meter, duration, training_bar
from masksup.runtime.ranks import SAVE, TELL, Group, joined, signal_of, wish
from masksup.runtime.run_folder import finished
from masksup.runtime.saver import PATIENCE
from masksup.training.diverged import raise_bad_gradient
from masksup.training.open import open_training
from masksup.training.run import Run
from masksup.training.score_run import finish, score_epoch


def train(config: Config, run_dir: Path, place: Place = ALONE) -> int:
    """Train, or go on with, the run in `run_dir`. Returns the exit status: 0 finished, 75 stopped on request.

    `place`: this process among the ranks of its job, all of which call this.
    """
    start_logging(rank=place.rank)
    with joined(place, config) as group:
        return _train(config, run_dir, group)


def _train(config: Config, run_dir: Path, group: Group) -> int:
    done = False
    with group.together():
        done = group.first and finished(run_dir, config)
    if group.broadcast(done):
        log.info(f"{run_dir}: this run is finished; its scores are in {run_dir / 'result.json'}")
        return 0
    run = open_training(config, run_dir, group)
    # A launcher that fences the folder starts a sign of life of its own, earlier.
    beat = heartbeat.start(run_dir / "heartbeat.json", "") if group.first and not fence.is_set() else None
    try:
        with training_bar(run.plan.total_steps, run.at.step, shown=group.first) as bar:
            stopped = _loop(run, bar)
        run.vote.drain()
        _make_sure_it_is_saved(run)
        if not stopped:
            stopped = _finish(run)
            run.vote.drain()
        if stopped:
            log.info(f"stopped by {stopped} after step {run.at.step}; the same command goes on from here")
            return STOPPED
        return 0
    finally:
        if beat is not None:
            beat.set()
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
    dataset = TrainDataset(
        part.index, train_transform(transform_settings(config.augment), config.model.size), run.plan,
        config.data.ignored, config.data.max_pixels, config.data.broken_budget, part.chosen,
    )  # fmt: skip
    pin = run.stepper.device.type == "cuda"
    return train_loader(
        dataset, run.plan, start, config.data.workers, prefetch=config.data.prefetch, pin_memory=pin,
        rank=place.rank, world=place.world,
    )  # fmt: skip


def _loop(run: Run, bar: Progress) -> str | None:
    """Step until the plan ends. The signal that asked to stop before that, if any did; the state is then saved."""
    config, at, plan, group = run.config, run.at, run.plan, run.group
    batches, meter, saved_at = _batches(run), Meter(), time.monotonic()
    heartbeat.note(phase="training", last_step=at.step, total_steps=plan.total_steps, best=_best(run))
    if not _score_if_due(run, meter):
        return _stop(run, stop_requested())
    while at.step < plan.total_steps:
        began = time.perf_counter()
        group.beat("loading step", at.step)
        micro_batches = next(batches)
        waited = time.perf_counter() - began
        _note_broken(run, micro_batches)
        if at.step == run.started_at:
            group.beat("warming up")
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
            _log_step(run, logs, lr, meter, bar)
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
        _alarm(run)
    return None


def _note_broken(run: Run, micro_batches: list[dict[str, Tensor]]) -> None:
    for batch in micro_batches:
        if "broken" in batch:  # features of a frozen backbone are of readable images
            run.broken["train"].note(batch["broken"], batch["sample"])


def _log_step(run: Run, logs: dict[str, Tensor], lr: float, meter: Meter, bar: Progress) -> None:
    step, epoch = run.at.step, run.plan.epoch_of(run.at.step)
    values = _over_ranks(run, logs)
    values["learning_rate"] = lr
    for group in run.stepper.engine.param_groups:  # the trunk's and the head's differ by their factors
        values[f"learning_rate_{group['name'].partition(',')[0]}"] = group["lr"]
    values["skipped_steps"] = float(run.stepper.engine.skipped)
    values |= _pace(run, meter)
    run.record.scalars("train", step, epoch, values)
    heartbeat.note(epoch=epoch, images_per_second=values["images_per_second"])
    note = f"epoch {epoch:.2f}  loss {values['loss']:.4f}  {figure(values['images_per_second'])} images/s"
    bar.update(bar.task_ids[0], note=note)
    if bar.disable:
        left = (run.plan.total_steps - step) * run.at.seconds / step
        log.info(f"step {step}/{run.plan.total_steps}  {note}  left {duration(left)}")


def _over_ranks(run: Run, logs: dict[str, Tensor]) -> dict[str, float]:
    """The step's values from the parts of the ranks. Collective where there are several."""
    if run.group.world == 1:
        return {name: float(value) for name, value in logs.items()}
    norm = float(logs["gradient_norm"])  # of the summed gradient already
    parts = torch.stack([value.double() for value in logs.values()]).cpu()
    return dict(zip(logs, run.group.sum(parts).tolist())) | {"gradient_norm": norm}


def _pace(run: Run, meter: Meter) -> dict[str, float]:
    """Speed and waiting since the last line, of all ranks together. Collective where there are several."""
    values, place = meter.read(), run.group.place
    if place.world == 1:
        return values
    own = torch.zeros(len(values), place.world, dtype=torch.float64)
    own[:, place.rank] = torch.tensor(list(values.values()))
    ranks = dict(zip(values, run.group.sum(own).tolist()))
    run.record.of_ranks(run.at.step, run.plan.epoch_of(run.at.step), ranks)
    # The one for whose data all others waited, at the next sum of the gradients.
    straggler = max(range(place.world), key=ranks["data_wait_seconds"].__getitem__)
    waiting = {name: ranks[name][straggler] for name in ("data_wait_seconds", "data_wait_share")}
    return values | waiting | {
        "images_per_second": sum(ranks["images_per_second"]), "data_wait_straggler": float(straggler),
        "memory_mib": max(ranks["memory_mib"]),
    }  # fmt: skip


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
    return (every > 0 and step % every == 0) or step == run.plan.total_steps


def _save_due_by_time(run: Run, saved_at: float) -> bool:
    """By the clock of rank 0, since clocks differ and a save is collective."""
    return run.group.first and time.monotonic() - saved_at > 60 * run.config.checkpoint.every_minutes


def _stop(run: Run, name: str | None) -> str:
    """Save because of a signal; where it came to another rank during an evaluation, its name is that rank's."""
    name = max(run.group.all(name or stop_requested() or ""))
    save(run, None)
    run.record.event(run.at.step, f"stopped by {name}")
    return name


def save(run: Run, patience: float | None = PATIENCE) -> None:
    """Begin to write a checkpoint of the run as it is now. `best` is the one it was improved in last. Collective.

    patience: how many seconds the disk is waited for that still writes the one before; then this one is left out, which
    an alarm says, unless it is the best so far. None: as long as it takes.
    """
    group, at = run.group, run.at
    group.beat_without_limit("waiting for the disk")
    if not group.broadcast(group.first and _disk_takes_it(run, patience)):
        return
    group.beat("collecting step", at.step)
    run.broken["train"].tell(group)
    at.broken = {name: sorted(images.known) for name, images in run.broken.items()}
    tensors, meta = collect(run.stepper, run.ema, group)
    if not group.first:
        return
    run.record.mark(at.step)
    run.record.flush()  # so that no curve has a hole before the step that a run goes on from
    name = run.saver.name(at.step)
    state = snapshot(tensors, {
        "name": name, "step": at.step, "epoch": run.plan.epoch_of(at.step), "at": vars(at),
        "hashes": run.source.hashes, "classes": run.source.classes, "note": run.source.train.index.note,
        "config": dump(run.config), "threads": run.threads, **meta,
    })  # fmt: skip
    run.saver.save(state, name, at.best)


def _disk_takes_it(run: Run, patience: float | None) -> bool:
    """Whether the run is to be saved now, once it is known whether the best before it was."""
    at, saver = run.at, run.saver
    is_best = at.best is not None and at.best["checkpoint"] == saver.name(at.step)
    free = saver.wait(patience)
    if free and not is_best:
        at.best = saver.best
    if not (free or is_best):
        text = f"step {at.step} is not saved, because the disk has been writing {saver.behind()}"
        log.error(f"ALARM: {text}; training goes on")
        run.record.event(at.step, text)
    return free or is_best


def _make_sure_it_is_saved(run: Run) -> None:
    """The last state must be on disk before a run calls itself stopped or finished; try twice. Collective."""
    last = run.folder.checkpoints / run.saver.name(run.at.step)
    if not _saved(run, last):
        _alarm(run)
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


def _alarm(run: Run) -> None:
    problem = run.saver.take_problem()
    if isinstance(problem, UserError):  # nothing can be saved there any more
        raise problem
    if problem is not None:
        log.error(f"ALARM: a checkpoint could not be saved, training goes on without it: {problem}")
        run.record.event(run.at.step, f"save failed: {problem}")
