"""The steps of one process, and the same added up as 1 to 4 ranks add them: equal bits.

One GPU holds no two ranks of NCCL, so one process computes the blocks of all ranks, one after the other.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from masksup.config.schema import Config
from masksup.data.sampler import block, share_of
from masksup.engine.parallel.buckets import buckets
from masksup.engine.parallel.ordered import Ordered
from masksup.engine.parallel.tree import Fold, Gradients, Node, combined
from masksup.engine.precision import set_numerics
from masksup.engine.step import Stepper, seed_forward
from tools.gpu_checks.results import Row
from tools.gpu_checks.setting import CLASSES, Setting, configure, digest
from tools.step_time import new_stepper, resident_batch

MICRO_BATCHES, STEPS, WORLDS = 6, 3, (1, 2, 3, 4)
CASES: dict[str, dict[str, Any]] = {
    "ResNet, AdamW": {"backbone": ("resnet50", "test_resnet"), "optim": {"name": "adamw", "lr": 1e-4, "clip": 1.0}},
    "ViT, SGD, checkpointing": {
        "backbone": ("vit_base_patch16_224", "test_vit"), "optim": {"name": "sgd", "lr": 0.01, "clip": 1.0},
        "model": {"grad_checkpointing": True},
    },
    "ResNet, MCAR": {"backbone": ("resnet50", "test_resnet"), "method": {"name": "mcar", "top": 2}},
}  # fmt: skip


def run(setting: Setting) -> Iterator[Row]:
    for what, case in CASES.items():
        names, sections = case["backbone"], {key: value for key, value in case.items() if key != "backbone"}
        micro, size = (2, 64) if setting.tiny else (16, 224)
        config = configure(setting, names[setting.tiny], size, MICRO_BATCHES * micro, micro, **sections)
        set_numerics(config.precision)
        alone = _trained(config, setting, None)
        for world in WORLDS:
            found = _trained(config, setting, world)
            yield {"what": f"{what}, as {world} ranks", "passed": found == alone, "sha256": found}


def _trained(config: Config, setting: Setting, world: int | None) -> str:
    """The hash of the state after some steps; None: of an ordinary process."""
    stepper = new_stepper(config, CLASSES, setting.device)
    for step in range(STEPS):
        batches = [resident_batch(config, CLASSES, setting.device, 100 * step + at) for at in range(MICRO_BATCHES)]
        if world is None:
            stepper.step(batches, step, step / STEPS)
        else:
            _step(stepper, batches, step, world)
    return digest(stepper.engine)


def _step(stepper: Stepper, batches: list[dict[str, Tensor]], step: int, world: int) -> None:
    """What `Stepper.step` does, but with the gradients of each rank's block in a fold of its own."""
    engine, count = stepper.engine, len(batches)
    assert isinstance(engine, Ordered)
    engine.begin(share_of(count, sum(len(batch["target"]) for batch in batches), 0, 1))
    nodes: list[tuple[Node, Gradients]] = []
    for rank in range(world):
        engine.fold = Fold(count)
        for index in block(rank, world, count):
            seed_forward(stepper.seed, step, index)
            progress = torch.full((), step / STEPS, device=stepper.device)
            loss, _ = engine.forward({**batches[index], "progress": progress}, last=False)
            engine.backward(loss / count, last=False)
        nodes += engine.fold.nodes
    whole: list[Tensor | None] = [None] * len(engine.parameters)
    for bucket in buckets(engine.parameters, list(range(len(engine.parameters))), 2**20, world):
        parts = {node: bucket.flat([gradients[at] for at in bucket.parameters]) for node, gradients in nodes}
        for at, gradient in bucket.gradients(combined((0, count), parts)):
            whole[at] = gradient if any(gradients[at] is not None for _, gradients in nodes) else None
    engine.fold.nodes = [((0, count), whole)]
    engine.step()
    engine.method.update(step)
