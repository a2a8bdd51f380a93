"""What the last bits of a result depend on besides the settings: the model of the device and the libraries."""

import platform
from importlib import metadata
from pathlib import Path

import torch

from masksup import __version__


def versions() -> dict[str, str]:
    """Of this program and of the libraries that compute."""
    return {"masksup": __version__, **{name: metadata.version(name) for name in ("torch", "timm", "numpy")}}


def device_model(device: torch.device) -> str:
    """Such as `NVIDIA H200` or `AMD EPYC 7763 64-Core Processor`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
