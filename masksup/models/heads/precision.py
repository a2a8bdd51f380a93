"""Heads give logits computed in float32 whatever the precision of the backbone: rounded to 8 bits they would tie.

Heads of linear layers and pooling compute in it throughout. In those with transformers, which may cost more than the
backbone, the last linear layer does.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast does not touch operations on the device of `x`."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or untouched where it is already wider (float64 in gradient checks)."""
    return x if x.dtype == torch.float64 else x.float()
