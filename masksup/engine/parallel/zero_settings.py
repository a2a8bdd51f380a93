"""DeepSpeed's settings from those of a run, what ZeRO cannot do, and the import of DeepSpeed, which few runs need."""

import logging
import os
from typing import Any

import torch
from pydantic import ValidationError

from masksup.base.place import Place
from masksup.config.conflicts import refuse_zero
from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.methods.method import Method


def deepspeed_config(config: Config, device: torch.device, place: Place) -> dict[str, Any]:
    """DeepSpeed's own settings: ours in its words, with the user's `parallel.zero_options` on top."""
    parallel = config.parallel
    elements = max(int(parallel.bucket_mb * 2**20 / 4) // 2 * 2, 2)  # DeepSpeed wants an even number
    zero: dict[str, Any] = {"stage": parallel.zero_stage, "reduce_bucket_size": elements}
    zero |= {"allgather_bucket_size": elements, "ignore_unused_parameters": not parallel.static_graph}
    for name in ("optimizer", "param"):
        if getattr(parallel, f"offload_{name}") == "cpu":
            zero[f"offload_{name}"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    tree: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.batch.micro_size,
        "gradient_accumulation_steps": max(_micro_batches(config) // place.world, 1),
        "gradient_clipping": config.optim.clip if parallel.zero_stage > 0 else 0.0,  # stage 0 is clipped here
        "zero_allow_untested_optimizer": True,  # torch's SGD; it is elementwise like the others
        "zero_force_ds_cpu_optimizer": False,  # its own would be compiled at the first start
        "zero_optimization": {**zero, **parallel.zero_options},
    }
    if parallel.compress == "bf16":
        tree["communication_data_type"] = "bf16"
    return tree


def _micro_batches(config: Config) -> int:
    return config.batch.micro_batches


def check(config: Config, method: Method, device: torch.device, place: Place) -> None:
    """UserError where ZeRO cannot do what is asked, or DeepSpeed is not there."""
    parallel = config.parallel
    if parallel.zero_stage > 0:
        _check_ranks(config, place)
    if parallel.zero_stage == 3 and method.own_state():
        raise UserError(
            f"parallel.zero_stage: found 3, but method {config.method.name} keeps a copy of the weights, which ZeRO 3 "
            "takes apart; expected 0, 1 or 2"
        )
    if parallel.backend == "gloo" and device.type == "cuda":
        raise UserError(
            "parallel.backend: found gloo, but parallel.engine is deepspeed on GPUs, whose collectives gloo does not "
            "have; expected auto or nccl, or parallel.engine ddp"
        )
    import_deepspeed(device)
    _check_options(config, device, place)


def _check_ranks(config: Config, place: Place) -> None:
    """ZeRO communicates inside of forward and backward, so every rank has to be in every one of them (rule 1)."""
    refuse_zero(config, place.world)
    if place.world > 1 and config.data.last_batch == "partial":
        raise UserError(
            "data.last_batch: found partial, whose short steps leave ranks without a micro-batch, as ZeRO cannot; "
            "expected continue or drop, or parallel.engine ddp"
        )


def _check_options(config: Config, device: torch.device, place: Place) -> None:
    from deepspeed.runtime.zero.config import get_zero_config

    options = config.parallel.zero_options
    for key in ("stage", "offload_optimizer", "offload_param"):
        if key in options:
            raise UserError(
                f"parallel.zero_options.{key}: this program sets it; expected parallel.zero_stage or offload_*"
            )
    try:
        get_zero_config(deepspeed_config(config, device, place))
    except ValidationError as error:
        first = error.errors()[0]
        key, found = ".".join(str(part) for part in first["loc"]), first["input"]
        raise UserError(f"parallel.zero_options.{key}: found {found!r}: {first['msg'].lower()}") from None


def import_deepspeed(device: torch.device) -> Any:
    """The package, made ready for this device. UserError where it is not there."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(
            f"parallel.engine: found deepspeed, but it cannot be imported ({error}); install it with "
            "`pip install deepspeed`, or use parallel.engine ddp"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Its shared-memory sums on CPUs would be compiled at the first start, and gloo's need not be.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
