"""Whether a computation asks the device: what a training step must never do (design rule 9)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique")
# On a CPU these do nothing that an operation would show.
TRANSFERS = (torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist)


@contextmanager
def no_questions() -> Iterator[None]:
    """Fails where the host would have to wait for the device, or where a shape would depend on values."""
    with _Operations(), _Transfers():
        yield


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        assert not any(word in name for word in OPERATIONS), f"{name} asks the device"
        if name.startswith(("index.", "index_put")):
            assert not any(i is not None and i.dtype.itemsize == 1 for i in args[1]), "boolean indexing asks the device"
        return func(*args, **(kwargs or {}))


class _Transfers(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in TRANSFERS, f"{func.__name__} asks the device"
        return func(*args, **(kwargs or {}))
