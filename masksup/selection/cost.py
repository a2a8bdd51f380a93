"""What a rung will take, from one of its own steps on this machine."""

import time

import torch

from masksup.config.schema import Config
from masksup.engine.build import new_network
from masksup.engine.precision import autocast, choose_device, choose_dtype, placed, set_numerics

_BEFORE = 2  # steps that are not timed: memory is found, kernels are chosen
_TIMED = 3
_REST = 1.3  # over the step itself: the optimiser, images that are waited for, the scoring of the held-out part


def seconds_an_image(config: Config, classes: int) -> float:
    """Of one image in training, forward and backward, on this machine: measured on pixels without meaning."""
    set_numerics(config.precision)
    device = choose_device(config.precision)
    network = placed(new_network(config, classes), device, config.precision).train()
    images = torch.zeros(config.batch.micro_size, 3, config.train_size, config.train_size, dtype=torch.uint8)
    images = placed(images, device, config.precision)
    began = 0.0
    for number in range(_BEFORE + _TIMED):
        if number == _BEFORE:
            _wait_for(device)
            began = time.perf_counter()
        with autocast(device, choose_dtype(config.precision, device)):
            logits_BC = network(images)
        logits_BC.float().sum().backward()
    _wait_for(device)
    return _REST * (time.perf_counter() - began) / (_TIMED * len(images))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
