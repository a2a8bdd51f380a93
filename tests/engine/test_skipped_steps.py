"""A step whose gradient is not finite leaves no trace: neither in the weights nor in what later steps go on from."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from masksup.base.place import Place
from masksup.config.schema import Config
from masksup.engine.build import new_method, new_network
from masksup.engine.optim import build_optimizer, set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.step import Stepper
from masksup.losses.bce import BinaryCrossEntropy

MakeConfig = Callable[..., Config]
CPU = torch.device("cpu")
OPTIMISERS = {
    "sgd": {"name": "sgd", "lr": 0.05, "clip": 1.0},
    "nesterov": {"name": "sgd", "lr": 0.05, "nesterov": True, "weight_decay": 0.01},
    "without momentum": {"name": "sgd", "lr": 0.05, "momentum": 0.0},
    "adam": {"name": "adam", "lr": 0.001},
    "adamw": {"name": "adamw", "lr": 0.001, "weight_decay": 0.01},
}


@pytest.fixture
def _junk() -> Iterator[None]:
    """Memory that was never written holds NaN, as memory that was freed may hold anything."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before


def batch(step: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=draw)
    targets = torch.randint(0, 2, (8, 12), dtype=torch.int8, generator=draw)
    return {"image": images, "target": targets, "sample": torch.arange(8), "position": torch.arange(8)}


def state_after(
    config: Config,
    dtype: torch.dtype,
    steps: list[int],
    bad: set[int],
    patch: pytest.MonkeyPatch,
    momentum: float | None,
) -> dict[str, Tensor]:
    """Weights and optimiser after these steps, of which some see infinity."""
    method = new_method(config, new_network(config, 12), 12, None).train()
    stepper = Stepper(make_engine(config, method, CPU, dtype, Place()), CPU, config.seed)
    for step in steps:
        set_rates(stepper.engine.param_groups, config.optim.lr, momentum)
        with patch.context() as inside:
            if step in bad:
                inside.setattr(BinaryCrossEntropy, "forward", lambda self, x, y: x.float().sum() * float("inf"))
            stepper.step([batch(step)], step, 0.0)
    assert int(stepper.engine.skipped) == len(bad)
    tensors, _ = stepper.engine.export_state()
    return {n: v for n, v in tensors.items() if "running_" not in n and "num_batches" not in n}


@pytest.mark.usefixtures("_junk")
@pytest.mark.parametrize(
    ("name", "momentum", "dtype"),
    [
        # Short: each optimiser in one precision, each precision with one optimiser or more.
        pytest.param(name, momentum, dtype, marks=[] if (number - k) % 3 == 0 else pytest.mark.slow)
        for k, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16))
        for number, (name, momentum) in enumerate([*((name, None) for name in OPTIMISERS), ("without momentum", 0.9)])
    ],
)
def test_steps_that_are_skipped_first_and_later_leave_no_trace(
    name: str, momentum: float | None, dtype: torch.dtype, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two steps and a later one are skipped. One-cycle sets a momentum (0.9) where there was none."""
    config = tiny_config(optim=OPTIMISERS[name])
    found = state_after(config, dtype, [0, 1, 2, 3, 4], {0, 1, 3}, monkeypatch, momentum)
    expected = state_after(config, dtype, [2, 4], set(), monkeypatch, momentum)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if dtype == torch.float16:  # each skip halves the scale of the losses, and so moves what underflows
            assert torch.allclose(found[key], value, rtol=0.1, atol=1e-3), key
        else:
            assert torch.equal(found[key], value), key


@pytest.mark.usefixtures("_junk")
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_that_begins_at_zero_has_the_bits_of_torchs_first_step(
    nesterov: bool, tiny_config: MakeConfig
) -> None:
    """Also where a parameter has its first gradient later than others, which torch's fused form refuses."""
    config = tiny_config(optim={"name": "sgd", "lr": 0.05, "nesterov": nesterov, "weight_decay": 0.01})
    ours, theirs = (new_network(config, 12) for _ in range(2))
    late = {id(weight) for weight in list(ours.backbone.parameters())[-2:]}
    optimizer = build_optimizer(config.optim, ours)
    options = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.01, "fused": True}
    each = [torch.optim.SGD([weight], **options) for weight in theirs.parameters()]
    draw = torch.Generator().manual_seed(0)
    for step in range(3):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            gradient = torch.randn(mine.shape, generator=draw)
            mine.grad, other.grad = (None, None) if step == 0 and id(mine) in late else (gradient.clone(), gradient)
        optimizer.step()
        for one in each:
            one.step()
        _same(ours, theirs)


def _same(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other), name
