"""NCCL as our watchdog needs it: it neither ends a process by itself, before that has left a word, nor forgets.

Torch's own watch over NCCL ends a rank by SIGABRT where a collective takes too long or a peer is gone.
"""

import os
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist

_VARIABLES = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_FR_BUFFER_SIZE": "2000", "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",  # the second is its earlier name
}  # fmt: skip


def set_variables() -> None:
    """Before the process group is made. What the user has set holds."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)


def dump(file: Path) -> None:
    """Write the last collectives and how far each got, as torch's flight recorder has them; nothing without NCCL."""
    if dist.is_nccl_available() and torch.cuda.is_available() and dist.is_initialized():
        from torch._C._distributed_c10d import _dump_nccl_trace_json  # type: ignore[attr-defined]

        with suppress(OSError, RuntimeError):  # the rank is ending, and its reason comes first
            file.write_bytes(_dump_nccl_trace_json())
