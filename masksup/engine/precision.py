"""Device, autocast type, memory format, threads and determinism: what turns a configuration into kernels."""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from masksup.config.schema import Precision
from masksup.errors import UserError

# As torch words it, e.g. "reflection_pad2d_backward_cuda does not have a deterministic implementation, but you set".
_NO_DETERMINISTIC_FORM = re.compile(r"(.+?) does not have a deterministic implementation")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def choose_device(precision: Precision) -> torch.device:
    """The device of this process; `auto` takes a GPU where there is one."""
    found = torch.cuda.is_available()
    if precision.device == "cuda" and not found:
        raise UserError("precision.device: found cuda, but torch sees no GPU on this machine; expected cpu or auto")
    return torch.device("cuda" if precision.device != "cpu" and found else "cpu")


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The autocast type; `auto`: bf16 on GPUs that have it, fp32 elsewhere."""
    if precision.dtype == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bf16 else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision.dtype]


def autocast(
    device: torch.device, dtype: torch.dtype, *, keep_casts: bool | None = None
) -> AbstractContextManager[None]:
    """Matrix products in `dtype`; nothing at all for fp32. keep_casts: of parameters, until the end of the context."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=keep_casts)


def gradient_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """Loss scaling for fp16, whose gradients underflow; switched off for the other types."""
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


def _keep_memory() -> None:
    """Let glibc keep freed memory for the next tensor. It gives blocks above 32 MB, such as the activations of MCAR's
    regions, back to the system each time, and page faults then take a fifth of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def choose_threads(precision: Precision, processes: int = 1) -> int:
    """CPU threads of this process, one of so many on this machine."""
    # Counted over the cores this process may use, which on a shared node are fewer than the machine's.
    asked = os.environ.get("OMP_NUM_THREADS", "")
    given = precision.threads or (int(asked) if asked.isdecimal() else 0)
    return given or max(1, len(os.sched_getaffinity(0)) // processes)


def set_numerics(precision: Precision, processes: int = 1) -> int:
    """Fix threads and determinism of this process, one of so many on this machine.

    Returns the number of CPU threads, which is recorded.
    """
    threads = choose_threads(precision, processes)
    torch.set_num_threads(threads)
    if choose_device(precision).type == "cpu":
        _keep_memory()
    elif not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        # Shapes that alternate, such as images and regions, would leave gaps that no later tensor fits into.
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"  # read with the first tensor on a GPU
    if precision.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Strict: with warn_only the backward pass of attention would still add in any order on a GPU.
    torch.use_deterministic_algorithms(precision.deterministic)
    # Meant for finding reads of memory that was never written; it would fill every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not precision.deterministic
    # Convolutions and matrix products alike: torch's own default is TF32 for the first and fp32 for the second.
    torch.backends.cudnn.allow_tf32 = precision.tf32
    torch.backends.cuda.matmul.allow_tf32 = precision.tf32
    return threads


@contextmanager
def deterministic_forms() -> Iterator[None]:
    """What computes inside may meet an operator without a deterministic form: a UserError that names it."""
    try:
        yield
    except RuntimeError as error:
        found = _NO_DETERMINISTIC_FORM.match(str(error))
        if found is None:
            raise
        raise UserError(
            f"precision.deterministic: found true, but {found[1]} has no deterministic form on this device; expected "
            "another backbone, head or method, or precision.deterministic=false, which gives up bit-equal runs"
        ) from error


_Placed = TypeVar("_Placed", bound=nn.Module | Tensor)


def placed(what: _Placed, device: torch.device, precision: Precision) -> _Placed:
    """A network, which is changed, or images, on a device in the memory layout that the settings ask for."""
    return what.to(device).to(memory_format=memory_format(precision))  # type: ignore[return-value]


def memory_format(precision: Precision) -> torch.memory_format:
    return torch.channels_last if precision.channels_last else torch.contiguous_format
