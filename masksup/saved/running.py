"""How a trained model is run: device, batch and threads, which each command lets a user choose; without torch."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from masksup.errors import UserError

if TYPE_CHECKING:
    from masksup.config.schema import Config

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Running:
    """What was asked for; None: as the run's configuration says. threads 0: one a core."""

    device: Device | None = None
    batch: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, found, least in (("batch", self.batch, 1), ("threads", self.threads, 0)):
            if found is not None and found < least:
                raise UserError(f"--{name}: found {found}, expected at least {least}")

    def over(self, config: "Config") -> "Config":
        """The configuration of a trained run as it is used here. Where it names a GPU and there is none, and nothing
        was asked for, the CPU takes its place, which a warning says."""
        precision = {"device": self.device or _device_here(config), "threads": self.threads}
        return config.model_copy(
            update={
                "precision": config.precision.model_copy(update=_given(precision)),
                "eval": config.eval.model_copy(update=_given({"batch": self.batch})),
            }
        )


AS_TRAINED = Running()
"""As the run's configuration says."""


def _given(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _device_here(config: "Config") -> Device:
    wanted = config.precision.device
    if wanted != "cuda":
        return wanted
    import torch

    from masksup.base.log import log

    if torch.cuda.is_available():
        return wanted
    log.warning("the run was trained on a GPU (precision.device: cuda), and there is none here: the CPU is used")
    return "cpu"


def add_running(
    command: argparse.ArgumentParser, *, devices: Sequence[str] = DEVICES, device: str = "the run's, where it is there",
    batch: str = "the run's eval.batch", threads: str = "the run's precision.threads",
) -> None:  # fmt: skip
    """The options `--device`, `--batch` and `--threads`; the texts say what is taken without them."""
    command.add_argument("--device", choices=devices, help=f"where the model runs (default: {device})")
    command.add_argument("--batch", type=int, metavar="N", help=f"images a forward pass (default: {batch})")
    command.add_argument("--threads", type=int, metavar="N", help=f"CPU threads; 0: one a core (default: {threads})")


def running_of(args: argparse.Namespace) -> Running:
    """What the options say. UserError for a number that is too small."""
    return Running(args.device, args.batch, args.threads)
