"""What engines are measured against: a loop around DDP, as one would write it, and the input of both."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from masksup.config.schema import Config
from masksup.engine.build import new_method, new_network
from masksup.engine.optim import build_optimizer
from masksup.engine.precision import choose_dtype, placed

CLASSES = 20


def bare_loop(config: Config, args: argparse.Namespace, device: torch.device) -> Callable[[int], Tensor]:
    """What one would write in twenty lines around DDP: the same network, loss, optimiser and micro-batches."""
    method = resident_method(config, device)
    network = DistributedDataParallel(
        method.network, device_ids=None if device.type == "cpu" else [torch.cuda.current_device()]
    )
    optimizer = build_optimizer(config.optim, method.network)
    dtype = choose_dtype(config.precision, device)

    each = args.micro_batches // args.world

    def step(number: int) -> Tensor:
        total = torch.zeros((), device=device)
        for index in range(each):
            batch = resident_batch(args, number, args.rank + index * args.world)
            network.require_backward_grad_sync = index == each - 1
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = network(batch["image"].to(device))
            loss = F.binary_cross_entropy_with_logits(logits, batch["target"].to(device).float()) / each
            torch.autograd.backward(loss)
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step


def resident_method(config: Config, device: torch.device) -> Any:
    network = placed(new_network(config, CLASSES), device, config.precision)
    return new_method(config, network, CLASSES, None).to(device).train()


def resident_batch(args: argparse.Namespace, step: int, index: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1000 * step + index)
    images = torch.randint(0, 256, (args.micro, 3, args.size, args.size), dtype=torch.uint8, generator=draw)
    return {
        "image": images.to(memory_format=torch.channels_last),
        "target": torch.randint(0, 2, (args.micro, CLASSES), dtype=torch.int8, generator=draw),
        "sample": torch.arange(args.micro),
        "position": torch.arange(args.micro),
    }
