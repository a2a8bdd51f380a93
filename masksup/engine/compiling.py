"""torch.compile of what a run computes."""

import torch
from torch import nn

from masksup.base.log import log
from masksup.config.schema import Precision
from masksup.models.network import Network


def compile_networks(module: nn.Module, precision: Precision) -> None:
    """Compile backbone and head of every network in `module`, a teacher too, where `precision.compile` asks for it.

    Methods call the two apart, so that a whole network would never be entered. Every shape (images, regions, a block of
    evaluation) has a graph of its own: one for all shapes would take over from the second on, and a run that goes on
    after a stop would compute its first step with another one than the run that was never stopped.
    """
    if not precision.compile:
        return
    networks = [part for part in module.modules() if isinstance(part, Network)]
    for network in networks:
        for part in (network.backbone, network.head):
            part.compile(dynamic=False)
    if next(module.parameters()).device.type == "cuda" and precision.deterministic and not compiles_repeatably():
        log.warning(
            f"precision.compile: torch {torch.__version__} chooses kernels by their speed, so that a repeated or "
            "resumed run may differ in last bits; torch 2.15 does not"
        )


def compiles_repeatably() -> bool:
    """Whether torch's determinism, as it is set now, also holds for the kernels that it compiles (from 2.15 on)."""
    import torch._inductor.config as inductor

    return bool(getattr(inductor, "deterministic", False))
