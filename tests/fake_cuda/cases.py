"""A case on the fake device: training steps and a block of evaluation, of one configuration."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from device import DEVICE, Event, move
from findings import Watch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from masksup.base.place import ALONE
from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.engine.build import new_method, new_network
from masksup.engine.ema import MovingAverage
from masksup.engine.optim import set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.precision import choose_dtype, memory_format, set_numerics
from masksup.engine.step import Stepper
from masksup.evaluation.blocks import Block, Masked
from masksup.evaluation.forward import Predictor, _forwards
from masksup.methods.method import Method

CLASSES = 5


def method_of(config: Config, mode: FakeTensorMode) -> Method:
    """What `config` trains, on the fake device."""
    network = new_network(config, CLASSES).to(memory_format=memory_format(config.precision))
    method = new_method(config, network, CLASSES, None)
    method.set_up(config.seed)
    move(method, mode)
    return method


def run(watch: Watch, tree: dict[str, Any], warn_only: bool = False) -> None:
    """Two training steps of which the second is watched, then three watched blocks of evaluation.

    The first step makes the optimiser's state. warn_only: determinism as it must not be, for a test of the watch.
    """
    config = validate(tree, "case")
    set_numerics(config.precision)
    if warn_only:
        torch.use_deterministic_algorithms(True, warn_only=True)
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    method = method_of(config, mode).train()
    with mode, watch:
        _train(config, method, watch)
        _evaluate(config, method.eval(), watch)


def _train(config: Config, method: Method, watch: Watch) -> None:
    watch.on = False
    dtype = choose_dtype(config.precision, DEVICE)
    engine = make_engine(config, method, DEVICE, dtype, ALONE)
    stepper = Stepper(engine, DEVICE, config.seed)
    average = MovingAverage(config.ema, engine.network_state()) if config.ema.decay > 0 else None
    batches = [_batch(config) for _ in range(config.batch.global_ // config.batch.micro_size)]
    for step in range(2):
        watch.on = step > 0
        set_rates(engine.param_groups, 1e-3, None)
        stepper.step(batches, step, 0.5)
        if average is not None:
            average.update(engine.network_state(), step)


def _evaluate(config: Config, method: Method, watch: Watch) -> None:
    watch.on = True
    dtype = choose_dtype(config.precision, DEVICE)
    Event.said, Event.made = [], 0
    for number, (logits_BC, *_) in enumerate(
        _forwards(Predictor(method.predict, config, DEVICE, dtype), _blocks(config, method))
    ):
        assert logits_BC.device.type == "cpu"
        Event.said.append(f"take {number}")


def _blocks(config: Config, method: Method) -> Iterator[Block]:
    """One as it is, and two under masks."""
    count, size = config.eval.batch, config.model.size
    for masked in (False, True, True):
        batch = _batch(config, count)
        valid: Any = SimpleNamespace(numpy=lambda: np.arange(count) < count - 1)  # a fake tensor would have no values
        packed = torch.empty(count, size, -(-size // 8), dtype=torch.uint8)
        images = Masked(batch["image"], packed, method.network.mean) if masked else batch["image"]
        yield images, valid, torch.empty(count, dtype=torch.bool), batch["sample"]


def _batch(config: Config, count: int = 0) -> dict[str, Tensor]:
    count, size = count or config.batch.micro_size, config.model.size
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    return {
        "image": images.to(memory_format=memory_format(config.precision)),
        "target": torch.empty(count, CLASSES, dtype=torch.int8),
        "sample": torch.empty(count, dtype=torch.int64),
        "position": torch.empty(count, dtype=torch.int64),
    }
