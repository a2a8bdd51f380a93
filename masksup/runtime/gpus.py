"""Which GPU a rank computes on, and what carries tensors between the ranks."""

import os
from contextlib import suppress
from typing import Any, Literal

import torch

from masksup.base.place import Place
from masksup.errors import UserError
from masksup.runtime.rendezvous import RankCard, my_card

Backend = Literal["nccl", "gloo"]
Asked = Literal["auto", "nccl", "gloo"]


def choose_backend(asked: Asked, on_gpu: bool) -> Backend:
    """What `parallel.backend` means for ranks on GPUs or on CPUs; auto: NCCL on GPUs, gloo on CPUs."""
    if asked == "nccl" and not on_gpu:
        raise UserError("parallel.backend: found nccl, but these ranks run on CPUs; expected auto or gloo")
    if asked == "auto":
        return "nccl" if on_gpu else "gloo"
    return asked


def gpu_of(place: Place, visible: int, shared: bool = False) -> int:
    """Which of the GPUs that this process was given is its own: the only one, or that of its local rank.

    shared: ranks beyond the last GPU begin again at the first, which gloo allows.
    """
    if visible == 1 or shared:
        return place.local_rank % visible
    if place.local_rank >= visible:
        raise UserError(
            f"local rank {place.local_rank}: found {visible} GPUs, expected one for each of {place.local_world} ranks; "
            "start fewer ranks, or let them share GPUs with parallel.backend=gloo, which is slow"
        )
    return place.local_rank


def take_gpu(place: Place, backend: Backend) -> str | None:
    """Make this rank's GPU the current one of its process. UserError where there are too few.

    Returns its PCI bus id if no other rank may use it, as NCCL demands; None where ranks may share a GPU.
    """
    torch.cuda.set_device(gpu_of(place, torch.cuda.device_count(), shared=backend == "gloo"))
    # NCCL from 2.30 on lets ranks share a GPU if it is told to.
    if backend == "gloo" or os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE") == "1":
        return None
    found: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    if not hasattr(found, "pci_bus_id"):  # an older torch; of a whole GPU this is as good
        return str(found.uuid)
    return f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}"


def rank_card(place: Place, config_text: str, asked: Asked, on_gpu: bool) -> RankCard:
    """What this rank says of itself at the start: its GPU, which it takes, or what is wrong with what was asked for."""
    gpu: str | None = None
    try:
        backend = choose_backend(asked, on_gpu)
        if on_gpu:
            with suppress(RuntimeError):  # a GPU that fails does so again when it is used, and is told then
                gpu = take_gpu(place, backend)
    except UserError as error:
        return my_card(config_text, str(error))
    return my_card(config_text, gpu=gpu)
