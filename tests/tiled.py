"""Networks and batches for the tests of the methods that cut images into tiles."""

from typing import Any

import torch
from networks import build_network
from torch import Tensor
from torch.nn import functional as F

from masksup.losses.bce import BinaryCrossEntropy
from masksup.models.network import Network

C = 5
BCE = BinaryCrossEntropy(torch.ones(C), torch.ones(C))


def new_network(backbone: str, size: int, head: str, **options: Any) -> Network:
    """Random weights whose class maps have some relief."""
    torch.manual_seed(1)
    network = build_network(backbone, size, head, options, C)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "fc.weight" in name or "classifier.weight" in name:
                parameter.mul_(6)
            elif name.startswith("backbone") and not parameter.any() and parameter.ndim == 1:
                parameter.fill_(0.5)  # residual branches start at 0 and would let no gradient pass
    return network


def new_batch(size: int, progress: float, images: int = 3) -> dict[str, Tensor]:
    """Blurred noise, with 3, 2 and 1 present classes and two ignored labels."""
    generator = torch.Generator().manual_seed(0)
    blobs = torch.rand(images, 3, 9, 9, generator=generator)
    targets = torch.tensor([[1, 1, 0, 1, -1], [0, 1, 0, 0, 1], [0, -1, 1, -1, 0]], dtype=torch.int8)
    return {
        "image": (F.interpolate(blobs, (size, size), mode="bicubic").clamp(0, 1) * 255).byte(),
        "target": targets[:images],
        "sample": torch.arange(images),
        "position": torch.arange(images),
        "progress": torch.tensor(progress),
    }
