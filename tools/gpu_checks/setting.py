"""What all steps share: where they run, at which size, and the parts of the project that they drive."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from masksup.config.load import validate
from masksup.config.schema import Config
from tools.gpu_checks.results import Row

if TYPE_CHECKING:  # a step that makes no network need not import what networks are made of
    from masksup.engine.parallel.engine import Engine

CLASSES = 80


@dataclass(frozen=True)
class Setting:
    """tiny: the same on a CPU in small, to test the check itself. folder: scratch. rows: results of earlier steps."""

    tiny: bool
    ranks: int
    folder: Path
    rows: tuple[Row, ...] = ()
    done: frozenset[str] = frozenset()
    data: Path | None = None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.tiny else "cuda")

    @property
    def dtype(self) -> str:
        """The type that training uses here."""
        return "fp32" if self.tiny else "bf16"


def configure(
    setting: Setting, backbone: str, size: int, batch: int, micro: int | None = None, **sections: Mapping[str, Any]
) -> Config:
    """A configuration for synthetic input; `sections` are added to, or replace keys of, its own."""
    tree: dict[str, Any] = {
        "data": {"train": "-"}, "model": {"backbone": backbone, "size": size},
        "optim": {"name": "adamw", "lr": 1e-4, "clip": 1.0}, "batch": {"global": batch, "micro": micro or batch},
        "precision": {"dtype": setting.dtype, "threads": int(setting.tiny), "device": setting.device.type},
    }  # fmt: skip
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return validate(tree, "gpu_check")


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def now() -> float:
    """Seconds, once the device has nothing left to do."""
    wait_for_device()
    return time.perf_counter()


def digest(engine: "Engine") -> str:
    """The hash of the whole state of a training: weights, buffers, optimiser."""
    hashed = hashlib.sha256()
    tensors, _ = engine.export_state()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        hashed.update(name.encode() + value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def failure(error: BaseException) -> str:
    """The first line of an error, for a row."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
