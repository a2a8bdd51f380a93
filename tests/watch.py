"""Whether a computation asks the device: what a training step must never do (design rule 9)."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "_to_cpu")


class NoQuestions(TorchDispatchMode):
    """Fails where the host would have to wait for the device, or where a shape would depend on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        assert not any(word in name for word in FORBIDDEN), f"{name} asks the device"
        if name.startswith(("index.", "index_put")):
            assert not any(i is not None and i.dtype.itemsize == 1 for i in args[1]), "boolean indexing asks the device"
        return func(*args, **(kwargs or {}))
