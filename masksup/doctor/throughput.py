"""How fast the ranks of a job train and score together, for some seconds, and what a run takes at that rate."""

import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from masksup.base.words import counted, figure
from masksup.config.schema import Config
from masksup.data.loader import train_loader, workers_of
from masksup.data.split import train_dataset
from masksup.doctor.measure import refuse_frozen
from masksup.engine.ema import MovingAverage
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.step import Stepper
from masksup.evaluation.blocks import count_blocks, image_blocks
from masksup.evaluation.forward import Predictor, run_model
from masksup.runtime.ranks import Group
from masksup.training.open import built_together
from masksup.training.run import Built

_LEAST = 4  # steps, or blocks of an evaluation, that are timed, half of them to get under way
_ENDLESS = 1e6  # epochs, so that a short run does not end while it is measured


@dataclass(frozen=True)
class Rates:
    """What was measured of a configuration by all ranks together, and what a run of it has to do.

    evaluation_seconds: of one evaluation of `data.eval`, without its scores; 0 without one.
    """

    device: str
    ranks: int
    global_batch: int
    micro_batch: int
    steps_measured: int
    step_seconds: float
    steps_an_epoch: float
    steps: int
    epochs: float
    evaluations: int
    evaluation_seconds: float


@dataclass(frozen=True)
class Forecast:
    """Of a run at these rates. GPU-hours count every rank, on CPUs too."""

    epoch_seconds: float
    run_hours: float
    gpu_hours: float


def predicted(rates: Rates) -> Forecast:
    """Steps and evaluations alone: no start, no checkpoint, no scores at the end, no wait for a queue."""
    seconds = rates.steps * rates.step_seconds + rates.evaluations * rates.evaluation_seconds
    hours = seconds / 3600
    return Forecast(rates.steps_an_epoch * rates.step_seconds, hours, hours * rates.ranks)


def measured(config: Config, path: Path, seconds: float, group: Group) -> Rates:
    """Train with random weights and the loader for some seconds, and score for a quarter of them. Collective.

    Nothing is written. UserError as in `masksup doctor`.
    """
    refuse_frozen(config, path)
    built, _ = built_together(config, path, True, group)
    with closing(_steps(built, group)) as steps:
        count, step_seconds = _timed(steps, seconds, group)
    config, plan = built.config, built.plan
    evaluations, evaluation_seconds = 0, 0.0
    if built.source.eval is not None:
        evaluations = max(1, math.ceil(plan.epochs / config.eval.every_epochs - 1e-9))
        rounds = -(-count_blocks(built.source.eval, config) // group.world)
        with closing(_blocks(built)) as blocks:
            evaluation_seconds = rounds * _timed(blocks, seconds / 4, group)[1]
    return Rates(
        str(built.device), group.world, config.batch.global_, config.batch.micro_size, count, step_seconds,
        plan.steps_per_epoch, plan.total_steps, plan.epochs, evaluations, evaluation_seconds,
    )  # fmt: skip


def _timed(work: Generator[None], seconds: float, group: Group) -> tuple[int, float]:
    """How often `work` was done in the second half of the time, and the seconds of each.

    In the first half the loader's workers start, and what they have ready beforehand is used up.
    """
    began, ends, done, half, half_at = time.perf_counter(), seconds, 0, 0, 0.0
    while next(work) is None:
        done += 1
        now = time.perf_counter() - began
        if not half and done >= _LEAST // 2 and group.broadcast(now >= ends / 2):
            half, half_at = done, now
            ends = max(ends, 2 * now)
        elif half and done >= half + _LEAST // 2 and group.broadcast(now >= ends):
            return done - half, (now - half_at) / (done - half)
    raise AssertionError("the work came to its end")


def _steps(built: Built, group: Group) -> Generator[None]:
    """A step each, as in a training, but without a learning rate."""
    config, place, plan = built.config, group.place, replace(built.plan, epochs=_ENDLESS)
    on_gpu = built.device.type == "cuda"
    batches = train_loader(
        train_dataset(config, built.source.train, plan), 0, workers_of(config.data), place,
        prefetch=config.data.prefetch, pin_memory=on_gpu, kind=config.data.loader,
    )  # fmt: skip
    method = built.method.train()
    method.set_up(config.seed)
    engine = make_engine(config, method, built.device, built.dtype, place)
    stepper = Stepper(engine, built.device, config.seed)
    average = MovingAverage(config.ema, engine.network_state()) if config.ema.decay > 0 else None
    set_rates(engine.param_groups, 0.0, None)
    for step, micro_batches in enumerate(batches):
        group.beat("measuring step", step)
        if step == 0 and micro_batches:
            stepper.warm_up(micro_batches[0], 0, 0.0)
        stepper.step(micro_batches, step, 0.0, plan.share(step, place.rank, place.world))
        if average is not None:
            average.update(engine.network_state(), step)
        if on_gpu:
            torch.cuda.synchronize()
        yield


def _blocks(built: Built) -> Generator[None]:
    """A block of `data.eval` each, over and over: all ranks have as many."""
    config, part = built.config, built.source.eval
    assert part is not None
    predictor = Predictor(built.scored_method.predict, config, built.device, built.dtype)
    while True:
        for block in image_blocks(part, config, range(count_blocks(part, config)), built.device):
            run_model(predictor, iter([block]))
            yield


def lines(rates: Rates) -> list[str]:
    """For people."""
    found, ranks = predicted(rates), counted(rates.ranks, "rank")
    evaluation = f"{figure(rates.evaluation_seconds):>8} s   {counted(rates.evaluations, 'evaluation')} of a run"
    what = "GPU-hours" if rates.device != "cpu" else "rank-hours"
    return [
        f"{ranks}, {rates.device}: {counted(rates.global_batch, 'image')} a step, micro-batches of {rates.micro_batch}",
        f"step        {figure(rates.step_seconds):>8} s   mean of {counted(rates.steps_measured, 'step')}, with its "
        "loader",
        f"epoch       {figure(found.epoch_seconds):>8} s   {counted(math.ceil(rates.steps_an_epoch), 'step')}",
        *([f"evaluation  {evaluation}"] if rates.evaluations else []),
        f"run         {figure(found.run_hours):>8} h   {counted(rates.steps, 'step')}",
        f"{what:<10}  {figure(found.gpu_hours):>8}     {ranks} x {figure(found.run_hours)} h",
        "without: the start, checkpoints, the scores at the end, waiting in a queue",
    ]


def to_json(rates: Rates) -> dict[str, Any]:
    """The same for programs."""
    return {"measured": asdict(rates), "predicted": asdict(predicted(rates))}
