"""What makes a GPU wait, or its result differ from run to run: seen operator by operator."""

import traceback
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The host has to read the device before it can go on.
QUESTIONS = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "unique_consecutive",
    "_unique", "_unique2",
}  # fmt: skip
# Those of torch.use_deterministic_algorithms's documentation (2.15) that raise on CUDA.
WITHOUT_DETERMINISTIC_FORM = {
    "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d_backward", "avg_pool3d_backward", "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward", "max_pool3d_with_indices_backward", "max_unpool2d", "max_unpool3d",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
    "replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward",
    "upsample_linear1d_backward", "upsample_bicubic2d_backward", "_upsample_bilinear2d_aa_backward",
    "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward", "grid_sampler_2d_backward",
    "grid_sampler_3d_backward", "nll_loss2d_forward", "_ctc_loss_backward", "_embedding_bag_dense_backward",
    "put_", "put", "histc", "bincount", "kthvalue", "median", "nanmedian", "resize_", "_cummin_helper_backward",
}  # fmt: skip
# Deterministic only where determinism is strict: with warn_only their faster, atomic form runs.
ONLY_WHERE_STRICT = {
    "_scaled_dot_product_flash_attention_backward", "_scaled_dot_product_efficient_attention_backward",
    "_scaled_dot_product_cudnn_attention_backward",
}  # fmt: skip


class Watch(TorchDispatchMode):
    """Counts what must not happen, with the line of the program it happens in. `on` switches it."""

    def __init__(self) -> None:
        super().__init__()
        self.on = True
        self.found: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        """Arithmetic that was seen: name and type of the first input, such as `mm bfloat16`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if self.on and any(tensor.is_cuda for tensor in inputs):
            self._before(func, name, args, inputs)
        out = func(*args, **kwargs)
        if self.on and name in ("_to_copy", "copy_"):
            self._copied(name, args, kwargs, inputs, out)
        return out

    def _before(self, func: Any, name: str, args: Any, inputs: list[Tensor]) -> None:
        self.operators[f"{name} {str(inputs[0].dtype).removeprefix('torch.')}"] += 1
        if name in QUESTIONS or (name == "repeat_interleave" and func._overloadname == "Tensor"):
            self._note(f"{name} asks the device")
        indices = args[1] if name.startswith("index") and isinstance(args[1], list | tuple) else ()
        if any(index is not None and index.dtype.itemsize == 1 for index in indices):
            self._note("a boolean index asks the device")
        strict = torch.are_deterministic_algorithms_enabled()
        strict = strict and not torch.is_deterministic_algorithms_warn_only_enabled()
        if name in WITHOUT_DETERMINISTIC_FORM or (name in ONLY_WHERE_STRICT and not strict):
            self._note(f"{name} is not deterministic")

    def _copied(self, name: str, args: Any, kwargs: Any, inputs: list[Tensor], out: Tensor) -> None:
        source = inputs[0] if name == "_to_copy" else inputs[1]
        waits = not kwargs.get("non_blocking", len(args) > 2 and args[2])
        if source.device.type != out.device.type and waits:
            self._note(f"a copy {source.device.type} to {out.device.type} of {tuple(out.shape)} blocks")

    def _note(self, what: str) -> None:
        self.found[f"{what} ({_where()})"] += 1


def _where() -> str:
    """The innermost line of the project or of a library it builds on."""
    for frame in reversed(traceback.extract_stack()):
        for part in ("/masksup/", "/timm/"):
            if part in frame.filename and "/fake_cuda/" not in frame.filename:
                return f"{part[1:]}{frame.filename.rsplit(part, 1)[1]}:{frame.lineno}"
    return "backward"
