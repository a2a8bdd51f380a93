"""Training steps of several configurations timed in turn, so that whatever else the machine does meets all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from masksup.base.place import Place
from masksup.config.schema import Config
from masksup.engine.build import new_method, new_network
from masksup.engine.compiling import compile_networks
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.precision import choose_device, choose_dtype, placed
from masksup.engine.step import Stepper

Step = Callable[[], object]


def interleaved_seconds(steps: Mapping[str, Step], repeats: int) -> dict[str, list[float]]:
    """Seconds of `repeats` steps of each, one step of each in turn, after one of each that is not counted."""
    for step in steps.values():
        step()  # allocations, autotuning
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            began = _now()
            step()
            seconds[name].append(_now() - began)
    return seconds


def _now() -> float:
    """Seconds: by the clock, after the GPU has finished, or of this process's time, which other work distorts less."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def ratios(seconds: Mapping[str, list[float]], to: str) -> dict[str, float]:
    """How many times as long as `to` each takes: the median over pairs of neighbouring steps."""
    return {name: statistics.median(a / b for a, b in zip(each, seconds[to])) for name, each in seconds.items()}


def new_stepper(config: Config, classes: int, device: torch.device | None = None) -> Stepper:
    """The trainer's step with random weights, on `device` (None: the configuration's). The caller sets the numerics."""
    device = device or choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    network = placed(new_network(config, classes), device, config.precision)
    method = new_method(config, network, classes, None)
    method.set_up(config.seed)
    method.to(device).train()
    compile_networks(method, config.precision)
    engine = make_engine(config, method, device, dtype, Place())
    set_rates(engine.param_groups, 1e-4, None)
    return Stepper(engine, device, 0)


def resident_batch(config: Config, classes: int, device: torch.device, seed: int = 0) -> dict[str, Tensor]:
    """A synthetic micro-batch that lies on `device`: this times the step, not the loader."""
    count, size = config.batch.micro_size, config.train_size
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    targets = torch.rand(count, classes, generator=generator) < 1.5 / classes  # as many classes as in VOC
    return {
        "image": images.to(device, memory_format=torch.channels_last),
        "target": targets.to(device, torch.int8),
        "sample": torch.arange(count, device=device), "position": torch.arange(count, device=device),
    }  # fmt: skip


def new_step(config: Config, classes: int) -> Step:
    """A function that makes one training step of the configuration on a resident batch."""
    stepper = new_stepper(config, classes)
    batch = resident_batch(config, classes, stepper.device)
    micro_batches = [batch] * (config.batch.global_ // config.batch.micro_size)
    return lambda: stepper.step(micro_batches, 0, 0.0)
