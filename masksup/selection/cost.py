"""What a rung will take, from one of its own steps on this machine."""

import time
from collections.abc import Callable

import torch
from torch import nn

from masksup.config.schema import Config
from masksup.engine.build import new_network
from masksup.engine.precision import autocast, choose_device, choose_dtype, placed, set_numerics

_BEFORE = 2  # steps that are not timed: memory is found, kernels are chosen
_TIMED = 3
_REST = 1.3  # over the step itself: the optimiser, images that are waited for, the scoring of the held-out part


def seconds_an_image(config: Config, classes: int) -> float:
    """Of one image in training, forward and backward, on this machine: measured on pixels without meaning; of a frozen
    network, whose features are kept, on features without meaning."""
    set_numerics(config.precision)
    device = choose_device(config.precision)
    network = placed(new_network(config, classes), device, config.precision).train()
    batch, backbone = config.batch.micro_size, network.backbone
    part: nn.Module = network
    inputs = torch.zeros(batch, 3, config.train_size, config.train_size, dtype=torch.uint8)
    if config.model.frozen:
        part, inputs = network.head, torch.zeros(batch, backbone.width, backbone.grid, backbone.grid)
    inputs = placed(inputs, device, config.precision)

    def step() -> None:
        with autocast(device, choose_dtype(config.precision, device)):
            logits_BC = part(inputs)
        logits_BC.float().sum().backward()

    return _REST * _timed(step, device) / batch


def seconds_of_features(config: Config, classes: int) -> float:
    """Of the features of one image, as `seconds_an_image`."""
    set_numerics(config.precision)
    device = choose_device(config.precision)
    network = placed(new_network(config, classes), device, config.precision).eval()
    pixels = torch.zeros(config.eval.batch, 3, config.model.size, config.model.size, dtype=torch.uint8)
    images = placed(pixels, device, config.precision)

    def step() -> None:
        with torch.no_grad(), autocast(device, choose_dtype(config.precision, device)):
            network.features(images)

    return _REST * _timed(step, device) / len(images)


def _timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of a step."""
    began = 0.0
    for number in range(_BEFORE + _TIMED):
        if number == _BEFORE:
            _wait_for(device)
            began = time.perf_counter()
        step()
    _wait_for(device)
    return (time.perf_counter() - began) / _TIMED


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
