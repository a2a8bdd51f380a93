"""The update: groups, clipping, precision, moving average."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from masksup.base.place import Place
from masksup.config.schema import Config, Ema, Optim, Precision
from masksup.engine.build import new_method, new_network
from masksup.engine.ema import MovingAverage
from masksup.engine.optim import build_optimizer, clip_gradients, set_rates
from masksup.engine.parallel.engine import make_engine
from masksup.engine.precision import choose_dtype
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.losses.bce import BinaryCrossEntropy

MakeConfig = Callable[..., Config]
CPU = torch.device("cpu")


def batch(n: int = 8, classes: int = 12) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=draw)
    targets = torch.randint(-1, 2, (n, classes), dtype=torch.int8, generator=draw)
    return {"image": images, "target": targets, "sample": torch.arange(n), "position": torch.arange(n)}


def stepper(config: Config, dtype: torch.dtype = torch.float32) -> Stepper:
    method = new_method(config, new_network(config, 12), 12, None).train()
    return Stepper(make_engine(config, method, CPU, dtype, Place()), CPU, config.seed)


def test_groups_have_their_factor_and_decay(tiny_config: MakeConfig) -> None:
    network = new_network(tiny_config(), 12)
    optim = Optim(lr=0.01, head_factor=10, backbone_factor=0.5, weight_decay=0.2, decay="matrices")
    optimizer = build_optimizer(optim, network)
    set_rates(optimizer.param_groups, 0.01, None)
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(by_parameter) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        group = by_parameter[id(parameter)]
        assert group["lr"] == pytest.approx(0.1 if name.startswith("head.") else 0.005), name
        assert group["weight_decay"] == (0.0 if parameter.ndim == 1 else 0.2), name


def test_puzzle_groups_biases_run_ahead_and_do_not_decay(tiny_config: MakeConfig) -> None:
    """methods.md 5.1: weights of the trunk x1 and of the head x10, biases x2 and x20 without decay."""
    network = new_network(tiny_config(model__backbone="test_vit"), 12)
    optim = Optim(lr=0.1, head_factor=10, bias_factor=2, weight_decay=1e-4, decay="weights")
    optimizer = build_optimizer(optim, network)
    set_rates(optimizer.param_groups, 0.1, None)
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(by_parameter) == sum(len(g["params"]) for g in optimizer.param_groups) == len([*network.parameters()])
    for name, parameter in network.named_parameters():
        group, bias = by_parameter[id(parameter)], name.endswith(".bias")
        assert group["lr"] == pytest.approx(0.1 * (10 if name.startswith("head.") else 1) * (2 if bias else 1)), name
        assert group["weight_decay"] == (0.0 if bias else 1e-4), name
    rates = {group["name"].partition(",")[0]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"backbone": 0.1, "backbone_bias": 0.2, "head": 1.0, "head_bias": 2.0})


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_layers_have_the_rates_that_timm_gives_them(name: str, tiny_config: MakeConfig) -> None:
    """timm's own function, on the whole model with its classifier, is the oracle."""
    whole = timm.create_model(name, num_classes=12, **({"img_size": 32} if name == "test_vit" else {}))
    scales = {id(p): g["lr_scale"] for g in param_groups_layer_decay(whole, layer_decay=0.5) for p in g["params"]}
    expected = {path: scales[id(p)] for path, p in whole.named_parameters()}
    network = new_network(tiny_config(model__backbone=name), 12)
    next(network.backbone.parameters()).requires_grad_(False)  # a frozen part has no rate
    optim = Optim(head_factor=10, backbone_factor=0.5, bias_factor=2, layer_decay=0.5, decay="matrices")
    optimizer = build_optimizer(optim, network)
    set_rates(optimizer.param_groups, 0.1, None)
    by_parameter = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len({group["name"] for group in optimizer.param_groups}) == len(optimizer.param_groups)
    rates: dict[str, float] = {}
    for path, parameter in [*network.named_parameters()][1:]:
        group, bias = by_parameter[id(parameter)], 2 if path.endswith("bias") else 1
        part = 10 if path.startswith("head.") else 0.5 * expected[path.removeprefix("backbone.model.")]
        assert group["lr"] == pytest.approx(0.1 * part * bias), path
        assert group["weight_decay"] == (0.0 if parameter.ndim <= 1 else optim.weight_decay), path
        assert rates.setdefault(group["name"].partition(",")[0], group["lr"]) == group["lr"], "one name is one rate"
    assert len(by_parameter) == len([*network.parameters()]) - 1
    assert len(set(rates.values())) > 4


def test_a_backbone_without_layers_has_no_layer_decay(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    network = new_network(tiny_config(), 12)
    monkeypatch.delattr(type(network.backbone.model), "group_matcher")
    with pytest.raises(
        UserError, match=r"^optim\.layer_decay: found 0\.5, but timm knows no layers of test_resnet; .*$"
    ):
        build_optimizer(Optim(layer_decay=0.5), network)


def test_by_default_everything_decays_and_has_one_rate(tiny_config: MakeConfig) -> None:
    optimizer = build_optimizer(Optim(weight_decay=0.3), new_network(tiny_config(), 12))
    groups = [(group["name"], group["factor"], group["weight_decay"]) for group in optimizer.param_groups]
    assert groups == [("backbone", 1.0, 0.3), ("head", 1.0, 0.3)]


def test_sgd_step_equals_the_textbook(tiny_config: MakeConfig) -> None:
    config = tiny_config(optim={"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01})
    ours = stepper(config)
    reference = copy.deepcopy(ours.engine.method)
    plain = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, foreach=False)
    from masksup.engine.step import seed_forward

    for step in range(3):
        ours.step([batch()], step, 0.0)
        seed_forward(config.seed, step, 0)
        reference(batch())[0].backward()
        plain.step()
        plain.zero_grad()
    for (name, a), (_, b) in zip(ours.engine.method.named_parameters(), reference.named_parameters()):
        assert torch.allclose(a, b, atol=1e-6), name


def test_clipping_bounds_the_norm_and_reports_the_unclipped(tiny_config: MakeConfig) -> None:
    weights = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))]
    for weight in weights:
        weight.grad = torch.full_like(weight, 2.0)
    norm = clip_gradients(weights, 1.0)
    assert norm == pytest.approx(2 * 7**0.5)
    clipped = torch.cat([w.grad.flatten() for w in weights if w.grad is not None])
    assert clipped.norm() == pytest.approx(1.0, rel=1e-5)


def test_fp16_scaler_grows_shrinks_and_skips(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = stepper(tiny_config(), torch.float16)
    assert ours.engine.scaler.is_enabled()
    before = copy.deepcopy(ours.engine.method.state_dict())
    scale = ours.engine.scaler.get_scale()
    with monkeypatch.context() as patch:
        patch.setattr(BinaryCrossEntropy, "forward", lambda self, x, y: x.float().sum() * float("inf"))
        ours.step([batch()], 0, 0.0)
    assert ours.engine.scaler.get_scale() == scale / 2
    assert int(ours.engine.skipped) == 1
    for name, value in ours.engine.method.named_parameters():
        assert torch.equal(value, before[name]), name
    ours.step([batch()], 1, 0.0)
    assert int(ours.engine.skipped_in_row) == 0
    assert any(not torch.equal(value, before[name]) for name, value in ours.engine.method.named_parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_keeps_fp32_weights_and_stays_near(dtype: torch.dtype, tiny_config: MakeConfig) -> None:
    config = tiny_config(optim={"name": "sgd", "lr": 0.01}, model__head={"name": "linear"})
    mixed, full = stepper(config, dtype), stepper(config)
    for step in range(5):
        a, b = mixed.step([batch()], step, 0.0)["loss"], full.step([batch()], step, 0.0)["loss"]
        assert a == pytest.approx(float(b), rel=0.03)
    assert all(value.dtype == torch.float32 for value in mixed.engine.method.parameters())


def test_dropout_is_a_function_of_seed_step_and_micro_batch(tiny_config: MakeConfig) -> None:
    config = tiny_config(model__head={"name": "linear", "dropout": 0.5})

    def loss(step: int, batches: int, waste: int) -> list[float]:
        ours = stepper(config)
        torch.manual_seed(waste)
        return ours.step([batch()] * batches, step, 0.0)["loss"].tolist()  # type: ignore[no-any-return]

    assert loss(3, 2, waste=1) == loss(3, 2, waste=2)
    assert loss(3, 1, waste=1) != loss(4, 1, waste=1)


def test_moving_average_is_the_recurrence(tiny_config: MakeConfig) -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = MovingAverage(Ema(decay=0.9, warmup=True), network.state_dict())
    expected = {n: v.double().clone() for n, v in network.state_dict().items() if v.is_floating_point()}
    for step in range(200):
        with torch.no_grad():
            for value in network.parameters():
                value += torch.randn_like(value)
        ema.update(network.state_dict(), step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in expected.items():
        assert torch.allclose(ema.average[name].double(), value, atol=1e-4), name
    assert "1.num_batches_tracked" not in ema.average
    assert "1.running_mean" in ema.average


def test_auto_precision_is_fp32_on_the_cpu() -> None:
    assert choose_dtype(Precision(), CPU) == torch.float32
    assert choose_dtype(Precision(dtype="fp16"), CPU) == torch.float16


def test_bce_ignores_weighs_and_smooths() -> None:
    logits = torch.tensor([[1.0, -2.0, 3.0]])
    targets = torch.tensor([[1, 0, -1]], dtype=torch.int8)
    loss = BinaryCrossEntropy(torch.tensor([1, 2, 3]), torch.tensor([50, 4, 3]))(logits, targets)
    p, q = torch.sigmoid(torch.tensor(1.0)), torch.sigmoid(torch.tensor(-2.0))
    assert loss == pytest.approx(float(-(p.log() + (1 - q).log()) / 2), rel=1e-6)
    weighted = BinaryCrossEntropy(torch.tensor([1, 2, 3]), torch.tensor([50, 4, 3]), class_weights="balanced")
    assert weighted(logits, targets) == pytest.approx(float(-(10 * p.log() + (1 - q).log()) / 2), rel=1e-6)
    smooth = BinaryCrossEntropy(torch.ones(3), torch.ones(3), smoothing=0.2)(logits, targets)
    expected = -(0.9 * p.log() + 0.1 * (1 - p).log() + 0.1 * q.log() + 0.9 * (1 - q).log()) / 2
    assert smooth == pytest.approx(float(expected), rel=1e-6)
    nothing = BinaryCrossEntropy(torch.ones(3), torch.ones(3))(logits, torch.full((1, 3), -1, dtype=torch.int8))
    assert nothing == 0
