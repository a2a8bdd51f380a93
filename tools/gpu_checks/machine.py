"""Where a check ran, so that results of two machines never stand in one file."""

import importlib.metadata
import os
import platform
from typing import Any

import torch

from masksup.errors import UserError
from tools.gpu_checks.setting import Setting


def describe(setting: Setting) -> dict[str, Any]:
    """Device, versions and form of this check. UserError where there are too few GPUs for it."""
    if not setting.tiny and torch.cuda.device_count() < setting.ranks:
        raise UserError(
            f"--ranks {setting.ranks}: found {torch.cuda.device_count()} GPUs, expected one for each rank (or --tiny, "
            "which runs on the CPU)"
        )
    cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    gpu = {} if setting.tiny else {"cuda": torch.version.cuda, "cudnn": cudnn}
    return {
        "device": "CPU" if setting.tiny else torch.cuda.get_device_name(), "ranks": setting.ranks, "tiny": setting.tiny,
        "torch": torch.__version__, "timm": importlib.metadata.version("timm"), "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)), **gpu,
    }  # fmt: skip
