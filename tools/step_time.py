"""Training steps of several configurations timed in turn, so that whatever else the machine does meets all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from masksup.config import Config
from masksup.engine.build import new_method, new_network
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.precision import choose_device, choose_dtype, memory_format
from masksup.engine.step import Stepper
from masksup.runtime.place import Place


def interleaved_seconds(configs: Mapping[str, Config], classes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of `repeats` optimiser steps of each configuration, one step of each in turn.

    Input is synthetic and resident: this times the step, not the loader. The caller has set threads and kernels.
    """
    steps = {name: new_step(config, classes) for name, config in configs.items()}
    for step in steps.values():
        step()  # warm up: allocations, autotuning
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(seconds: Mapping[str, list[float]], to: str) -> dict[str, float]:
    """How many times as long as `to` each takes: the median over pairs of neighbouring steps."""
    return {name: statistics.median(a / b for a, b in zip(each, seconds[to])) for name, each in seconds.items()}


def new_step(config: Config, classes: int) -> Callable[[], object]:
    """A function that makes one training step of the configuration on random images, half of the labels present."""
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    network = new_network(config, classes).to(device).to(memory_format=memory_format(config.precision))
    method = new_method(config, network, classes, None)
    method.prepare(config.seed)
    method.to(device).train()
    engine = make_engine(config, method, device, dtype, Place())
    set_rates(engine.param_groups, 1e-4, None)
    stepper = Stepper(engine, device, dtype, 0)
    count, size = config.batch.micro_size, config.model.size
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    batch = {
        "image": images.to(device, memory_format=torch.channels_last),
        "target": torch.randint(0, 2, (count, classes), dtype=torch.int8, device=device),
        "sample": torch.arange(count, device=device), "position": torch.arange(count, device=device),
    }  # fmt: skip
    micro_batches = [batch] * (config.batch.global_ // count)
    return lambda: stepper.step(micro_batches, 0, 0.0)
