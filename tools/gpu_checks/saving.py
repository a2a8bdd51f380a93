"""How long a checkpoint stops the training, and what evaluation reaches of bare forwards."""

from collections.abc import Iterator

import torch
from torch import Tensor

from masksup.engine.precision import autocast, choose_dtype, set_numerics
from masksup.evaluation.blocks import Block
from masksup.evaluation.forward import Predictor, run_model
from masksup.runtime.checkpoint import snapshot
from tools.gpu_checks.results import Row
from tools.gpu_checks.setting import CLASSES, Setting, now
from tools.gpu_checks.speed import RESNET, VARIANTS, VIT, configured
from tools.step_time import new_stepper, resident_batch

SNAPSHOTS = ("first snapshot", "second snapshot", "pinned copy")


def saving(setting: Setting) -> Iterator[Row]:
    """Of ViT-L with AdamW: the copy to main memory, during which the training waits; the rest is a thread's."""
    config = configured(setting, VIT, VARIANTS[0], batch=4)
    set_numerics(config.precision)
    stepper = new_stepper(config, CLASSES, setting.device)
    stepper.step([resident_batch(config, CLASSES, setting.device)], 0, 0.0)
    tensors, _ = stepper.engine.export_state()
    gib = sum(value.numel() * value.element_size() for value in tensors.values()) / 2**30
    for what in SNAPSHOTS[:2]:
        began = now()
        snapshot(tensors, {})
        yield {"what": what, "gib": gib, "stall_s": now() - began}
    if not setting.tiny:
        yield {"what": SNAPSHOTS[2], "gib": gib, "stall_s": _pinned(tensors)}


def _pinned(tensors: dict[str, Tensor]) -> float:
    """Seconds of the same copy into pinned memory that is there already."""
    hosts = {name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for name, value in tensors.items()}
    began = now()
    for name, value in tensors.items():
        hosts[name].copy_(value, non_blocking=True)
    return now() - began


def scoring(setting: Setting) -> Iterator[Row]:
    """images/s of an evaluation whose images are in main memory, beside forwards of one that is on the device."""
    batch, blocks = (4, 3) if setting.tiny else (32, 40)
    config = configured(setting, RESNET, VARIANTS[0], batch=batch)
    set_numerics(config.precision)
    dtype = choose_dtype(config.precision, setting.device)
    model = new_stepper(config, CLASSES, setting.device).engine.method.eval()
    images = resident_batch(config, CLASSES, torch.device("cpu"))["image"]

    def block(count: int) -> Iterator[Block]:
        valid = torch.ones(batch, dtype=torch.bool)
        return ((images, valid, ~valid, torch.arange(batch)) for _ in range(count))

    predictor = Predictor(model.predict, config, setting.device, dtype)
    run_model(predictor, block(2))
    began = now()
    run_model(predictor, block(blocks))
    ours = blocks * batch / (now() - began)
    here = images.to(setting.device)
    with torch.inference_mode(), autocast(setting.device, dtype):
        model.predict(here)
        began = now()
        for _ in range(blocks):
            model.predict(here)
        bare = blocks * batch / (now() - began)
    yield {"what": "evaluation", "images_s": ours, "of_bare": ours / bare}
    yield {"what": "bare forwards", "images_s": bare}
