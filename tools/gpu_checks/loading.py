"""The real loader at 448 by itself and feeding the step of ResNet-101, by the number of its workers."""

import os
from collections.abc import Iterator
from pathlib import Path

from masksup.config.schema import Config
from masksup.data.dataset import Batch, TrainDataset
from masksup.data.loader import train_loader, workers_of
from masksup.data.split import make_plan, open_source
from masksup.data.transforms import train_transform
from masksup.engine.precision import set_numerics
from masksup.engine.step import Stepper
from tools.gpu_checks import runs
from tools.gpu_checks.results import Row, results
from tools.gpu_checks.setting import Setting, configure, now
from tools.gpu_checks.speed import PLAIN, RESNET
from tools.step_time import new_stepper


def run(setting: Setting) -> Iterator[Row]:
    data = (
        setting.data or runs.synthetic_data(setting, 16 if setting.tiny else 256, 64 if setting.tiny else 448) / "train"
    )
    cores = len(os.sched_getaffinity(0))
    for workers in (1,) if setting.tiny else sorted({2, min(8, cores), max(2, cores - 1)}):
        for fed in (False, True):
            what = f"{workers} workers, {'feeding the step' if fed else 'alone'}"
            if what not in setting.done:
                yield {"what": what, **_measure(setting, data, workers, fed)}


def _measure(setting: Setting, data: Path, workers: int, fed: bool) -> Row:
    config = _config(setting, data, workers)
    set_numerics(config.precision)
    classes, batches = _open(setting, config)
    stepper: Stepper | None = new_stepper(config, classes, setting.device) if fed else None
    steps = 3 if setting.tiny else 12
    began = 0.0
    for number in range(steps + 2):
        if number == 2:  # the first wait for workers that start
            began = now()
        micro_batches = next(batches)
        if stepper is not None:
            stepper.step(micro_batches, number, 0.0)
    speed = steps * config.batch.global_ / (now() - began)
    plain = results(setting.rows, "speed").get(f"{RESNET}, {PLAIN}", {}).get("images_s")
    return {
        "images_s": speed,
        "cores": len(os.sched_getaffinity(0)),
        **({"of_resident": speed / plain} if plain else {}),
    }


def _config(setting: Setting, data: Path, workers: int) -> Config:
    backbone, size, batch = ("test_resnet", 64, 4) if setting.tiny else ("resnet101", 448, 64)
    return configure(
        setting, backbone, size, batch, model={"head": {"name": "csra"}}, data={"train": str(data), "workers": workers},
        augment={"crop": "random_resized"},
    )  # fmt: skip


def _open(setting: Setting, config: Config) -> tuple[int, Iterator[list[Batch]]]:
    source = open_source(config.data, 0)
    plan = make_plan(config.model_copy(update={"epochs": 200.0}), source.train)
    transform = train_transform(config.augment, config.train_size)
    dataset = TrainDataset(source.train.index, transform, plan, "ignore", 10**8, 0.0, source.train.chosen)
    return len(source.classes), train_loader(
        dataset, 0, workers_of(config.data), prefetch=config.data.prefetch, pin_memory=not setting.tiny
    )
