"""The loader by itself and the step by itself, for some seconds each, on this machine; nothing is written."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masksup.base.place import ALONE, cpus_of_rank
from masksup.base.random import draws
from masksup.config.load import load_config
from masksup.config.schema import Config
from masksup.data.decode import decode_bytes
from masksup.data.loader import train_loader, workers_of
from masksup.data.split import train_dataset
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.step import Stepper, to_device
from masksup.errors import UserError
from masksup.runtime.metrics_rows import read_rows
from masksup.runtime.ranks import Group
from masksup.runtime.run_folder import as_in_folder
from masksup.training.open import built_together
from masksup.training.run import Built

_SAMPLES = 32  # whose reading, decoding and transforming is timed
_LINES = 100  # of the record, the last


@dataclass(frozen=True)
class Recorded:
    """What the last lines of a run's record say, their medians. `ranks`: of the run."""

    lines: int
    ranks: int
    images_per_second: float
    data_wait_share: float


@dataclass(frozen=True)
class Found:
    """What was measured. Images a second of one rank; milliseconds of one CPU for an image.

    launch_share: of the time of a step, what the host takes to hand its work to the device; 1 on a CPU, which is both.
    """

    device: str
    threads: int
    cpus: int
    workers: int
    kind: str
    micro_batch: int
    loader: float
    step: float
    launch_share: float
    read_ms: float
    decode_ms: float
    transform_ms: float
    recorded: Recorded | None = None


def examine(path: Path, overrides: list[str], seconds: float) -> Found:
    """Measure what a configuration describes, or a run folder, of which the record is read too. UserError as in
    `build`, and for a backbone that is frozen."""
    config = _config(path, overrides)
    refuse_frozen(config, path)
    built, _ = built_together(config, path, True, Group(ALONE, config.parallel))  # without its weights, alike in speed
    loader, micro_batches = _loader(built, seconds)
    step, launched = _step(built, micro_batches, seconds)
    read, decode, transform = _parts(built)
    data = built.config.data
    found = Found(
        str(built.device), built.threads, cpus_of_rank(), workers_of(data), data.loader,
        built.config.batch.micro_size, loader, step, launched, read, decode, transform,
    )  # fmt: skip
    return replace(found, recorded=_recorded(path)) if path.is_dir() else found


def refuse_frozen(config: Config, path: Path) -> None:
    """UserError for a configuration whose steps load no images."""
    if config.model.frozen:
        raise UserError(
            f"{path}: found model.frozen true, whose steps have neither images nor a backbone (features are kept); "
            "expected a configuration that trains the backbone"
        )


def _config(path: Path, overrides: list[str]) -> Config:
    if not path.is_dir():
        return load_config(path, overrides)[0]
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path}: found no config.yaml in it, expected a run folder or the file of a configuration")
    return as_in_folder(path, load_config(path / "config.yaml", overrides)[0])


def _loader(built: Built, seconds: float) -> tuple[float, list[dict[str, Tensor]]]:
    """Images a second of the loader, from when its workers are at work; and a step's micro-batches."""
    data = built.config.data
    batches = train_loader(
        train_dataset(built.config, built.source.train, built.plan), 0, workers_of(data),
        prefetch=data.prefetch, pin_memory=built.device.type == "cuda", kind=data.loader,
    )  # fmt: skip
    first = next(batches)
    images, began = 0, time.perf_counter()
    for step_batches in batches:
        images += sum(len(batch["target"]) for batch in step_batches)
        if time.perf_counter() - began >= seconds:
            break
    spent = time.perf_counter() - began
    # What the workers had ready before the clock ran counts as well, so a measurement is to be longer than that.
    return images / spent if images else sum(len(batch["target"]) for batch in first) / spent, first


def _step(built: Built, micro_batches: list[dict[str, Tensor]], seconds: float) -> tuple[float, float]:
    """Images a second of the step on batches that lie on the device; the host's share of its time."""
    method = built.method.train()
    method.set_up(built.config.seed)
    stepper = Stepper(
        make_engine(built.config, method, built.device, built.dtype, ALONE), built.device, built.config.seed
    )
    set_rates(stepper.engine.param_groups, 0.0, None)
    resident = [to_device(batch, built.device) for batch in micro_batches]

    def step() -> None:
        stepper.step(resident, 0, 0.0)

    stepper.warm_up(resident[0], 0, 0.0)
    step()
    times, launches = _timed(step, built.device, seconds)
    images = sum(len(batch["target"]) for batch in micro_batches)
    return images / statistics.median(times), statistics.median(launches) / statistics.median(times)


def _timed(step: Callable[[], None], device: torch.device, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of single steps: until the device has done them, and until the host has handed them over."""
    times: list[float] = []
    launches: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        began = time.perf_counter()
        step()
        launches.append(time.perf_counter() - began)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times, launches


def _parts(built: Built) -> tuple[float, float, float]:
    """Milliseconds of one CPU to read, decode and transform an image: medians over some samples."""
    part, config = built.source.train, built.config
    dataset, index = train_dataset(config, part, built.plan), part.index
    spent = np.zeros((min(_SAMPLES, len(part)), 3))
    for row, sample in enumerate(part.numbers(np.arange(len(spent))).tolist()):
        marks = [time.perf_counter()]
        data = index.read(sample)
        marks.append(time.perf_counter())
        image = decode_bytes(
            data, index.where(sample), exif=index.exif, max_pixels=config.data.max_pixels, pixel_range=index.pixel_range
        )
        marks.append(time.perf_counter())
        dataset.transform(image, draws(0, row, "transform"))
        marks.append(time.perf_counter())
        spent[row] = np.diff(marks)
    read, decode, transform = (1000 * np.median(spent, axis=0)).tolist()
    return read, decode, transform


def _recorded(run: Path) -> Recorded | None:
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train" and "data_wait_share" in row]
    if not rows:
        return None
    last = rows[-_LINES:]
    ranks = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "ranks"]
    return Recorded(
        len(last), len(ranks[-1]["images_per_second"]) if ranks else 1,
        statistics.median(row["images_per_second"] for row in last),
        statistics.median(row["data_wait_share"] for row in last),
    )  # fmt: skip
