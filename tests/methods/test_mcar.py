"""MCAR as a whole: beside a slow literal copy of its description, in gradients, in a run, and when misused."""

import copy

import pytest
import torch
from compare import assert_same_run
from networks import build_network
from torch.nn import functional as F
from watch import no_questions

from masksup.base.place import Place
from masksup.config.load import load_config
from masksup.engine.parallel.engine import make_engine
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.exits import STOPPED
from masksup.losses.bce import BinaryCrossEntropy
from masksup.methods.localise import locate, normalise
from masksup.methods.mcar import MCAR
from masksup.training.train import train

CLASSES, SIZE = 5, 64


def new_mcar(pool="avg", bias=True, backbone="test_resnet", **options) -> MCAR:
    torch.manual_seed(1)
    network = build_network(backbone, SIZE, "linear", {"pool": pool, "bias": bias}, CLASSES)
    with torch.no_grad():
        network.head.fc.weight.mul_(4)  # some relief, but no logits at which the oracle's probabilities saturate
        for parameter in network.backbone.parameters():
            if not parameter.any() and parameter.ndim == 1:
                parameter.fill_(0.5)  # residual branches start at 0 and would let no gradient pass
    counts = torch.ones(CLASSES)
    return MCAR(network, BinaryCrossEntropy(counts, counts), **{"top": 3, **options})


def new_batch(images=2, seed=0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.rand(images, 3, 5, 5, generator=generator)
    return {
        "image": (F.interpolate(blobs, (SIZE, SIZE), mode="bicubic").clamp(0, 1) * 255).byte(),
        "target": torch.randint(-1, 2, (images, CLASSES), generator=generator, dtype=torch.int8),
        "sample": torch.arange(images),
        "position": torch.arange(images),
    }


def literal(network, images, pool, top, threshold, rule):
    """methods.md 4.1 one sentence after the other, with probabilities and loops: (g, l, boxes, classes)."""
    weight, bias = network.head.fc.weight, network.head.fc.bias

    def probabilities(x):
        mean, largest = x.mean((2, 3)), x.amax((2, 3))
        pooled = {"avg": mean, "max": largest, "gwp": (mean + largest) / 2}[pool]
        logits = pooled @ weight.T + (0 if bias is None else bias)
        return torch.sigmoid(logits.double())  # in float32 large logits would all become 1

    normal = ((images.float() / 255 - network.mean.float()) / network.std.float()).to(weight.dtype)
    a = network.backbone(normal)
    g = probabilities(a)
    maps = torch.sigmoid(F.conv2d(a.detach(), weight[:, :, None, None], bias))
    maps = F.interpolate(maps, normal.shape[2:], mode="bilinear", align_corners=True).detach()
    crops, boxes, classes = [], [], []
    for i in range(len(images)):
        for c in g[i].argsort(descending=True)[:top].tolist():
            x1, x2 = locate(normalise(maps[i, c].amax(0)), threshold, rule)
            y1, y2 = locate(normalise(maps[i, c].amax(1)), threshold, rule)
            part = normal[i : i + 1, :, y1:y2, x1:x2]
            crops.append(F.interpolate(part, normal.shape[2:], mode="bilinear", align_corners=True))
            boxes.append([int(x1), int(y1), int(x2), int(y2)])
            classes.append(c)
    local = probabilities(network.backbone(torch.cat(crops)))
    groups = [local[i * top : (i + 1) * top].amax(0) for i in range(len(images))]
    return g, torch.stack(groups), torch.tensor(boxes).reshape(-1, top, 4), torch.tensor(classes).reshape(-1, top)


@pytest.mark.parametrize(
    ("pool", "bias", "compat", "threshold"),
    [("avg", True, "none", 0.5), ("max", True, "original", 0.3), ("gwp", False, "none", 0.7)],
)
def test_it_is_the_literal_description(pool, bias, compat, threshold):
    # In float64: on some processors the last bit of a map in float32 moves a region's edge.
    method = new_mcar(pool, bias, compat=compat, threshold=threshold).double().train()
    twin, batch = copy.deepcopy(method), new_batch()
    g, local, _, _ = literal(twin.network, batch["image"], pool, 3, threshold, compat)
    counted, target = batch["target"] >= 0, (batch["target"] == 1).double()
    expected = F.binary_cross_entropy(g[counted], target[counted]) + F.binary_cross_entropy(
        local[counted], target[counted]
    )
    expected.backward()
    loss, logs = method(batch)
    loss.backward()
    loss = loss.detach()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert float(logs["loss_global"] + logs["loss_local"]) == pytest.approx(loss.item())
    for (name, ours), (_, theirs) in zip(method.network.named_parameters(), twin.network.named_parameters()):
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5 + 1e-4 * float(theirs.grad.abs().max())), (
            name
        )
    for (name, ours), (_, theirs) in zip(method.network.named_buffers(), twin.network.named_buffers()):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5), f"batch statistics of two batches: {name}"
    with torch.inference_mode():
        twin.eval().network.load_state_dict(method.network.state_dict())
        found = method.eval().predict_regions(batch["image"])
        g, local, boxes, classes = literal(twin.network, batch["image"], pool, 3, threshold, compat)
    assert torch.equal(found.classes_BN, classes)
    assert torch.equal(found.boxes_BN4, boxes)
    assert torch.allclose(found.global_BC.double().sigmoid(), g, atol=1e-5)
    assert torch.allclose(found.fused_BC.double().sigmoid(), torch.maximum(g, local), atol=1e-5)
    assert torch.equal(method.predict(batch["image"]), found.fused_BC)


def test_regions_are_of_different_classes_and_differ():
    found = new_mcar(top=CLASSES).eval().predict_regions(new_batch(6)["image"])
    assert (found.classes_BN.sort(1).values == torch.arange(CLASSES)).all()
    boxes = found.boxes_BN4.flatten(0, 1)
    assert len(boxes.unique(dim=0)) > CLASSES, "attention has no relief: the tests above would prove little"


def stream_loss(method, batch, stream):
    logits = dict(zip(("global", "local"), method._look_twice(batch["image"])))
    return method.loss(logits[stream], batch["target"])


def test_gradients_come_from_both_streams_and_not_through_the_attention():
    batch = new_batch()
    gradients = {}
    for kept in ("global", "local"):
        method = new_mcar().train()
        stream_loss(method, batch, kept).backward()
        gradients[kept] = {name: p.grad.clone() for name, p in method.network.named_parameters()}
        assert all(g.abs().sum() > 0 for g in gradients[kept].values()), kept
    # With the boxes held fixed the local stream has the same gradient: none of it passes through them.
    method = new_mcar().train()
    boxes = method.predict_regions(batch["image"]).boxes_BN4
    method = new_mcar().train()
    method._boxes = lambda *_: boxes  # type: ignore[method-assign]
    stream_loss(method, batch, "local").backward()
    for name, p in method.network.named_parameters():
        assert torch.equal(p.grad, gradients["local"][name]), name


@pytest.mark.parametrize("compat", ["none", "original"])
def test_a_step_does_not_ask_the_device(compat):
    method, batch = new_mcar(compat=compat).train(), new_batch()
    with no_questions():
        loss, _ = method(batch)
        loss.backward()
        with torch.no_grad():
            method.eval().predict(batch["image"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_the_trainer_lowers_the_loss(dtype, tiny_config):
    method, batch = new_mcar().train(), new_batch(4)
    cpu = torch.device("cpu")
    stepper = Stepper(make_engine(tiny_config(), method, cpu, dtype, Place()), cpu, 0)
    losses = [float(stepper.step([batch], step, 0.0)["loss"]) for step in range(12)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_any_trunk_fits(backbone):
    method = new_mcar(backbone=backbone).train()
    loss, _ = method(new_batch())
    loss.backward()
    assert torch.isfinite(loss)


def test_gradient_checkpointing_and_channels_last_change_nothing():
    batch, results = new_batch(), []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        network = build_network("test_resnet", SIZE, "linear", {}, CLASSES, grad_checkpointing=checkpointing)
        counts = torch.ones(CLASSES)
        method = MCAR(network.to(memory_format=torch.channels_last), BinaryCrossEntropy(counts, counts), top=2).train()
        loss, _ = method({**batch, "image": batch["image"].contiguous(memory_format=torch.channels_last)})
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in network.parameters()), *network.buffers()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results))


def test_stopped_and_resumed_is_bit_equal(tiny_config, tmp_path, monkeypatch):
    config = tiny_config(method={"name": "mcar", "top": 2}, epochs=1)
    assert train(config, tmp_path / "clean") == 0
    calls = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM" if next(calls) >= 1 else None)
        assert train(config, tmp_path / "cut") == STOPPED
    assert train(config, tmp_path / "cut") == 0
    assert_same_run(tmp_path / "cut", tmp_path / "clean")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"method": {"name": "mcar", "top": 13}}, r"method\.top: found 13, expected 1 to 12, the number of classes"),
        ({"method": {"name": "mcar", "top": 0}}, r"method\.top: found 0"),
        ({"method": {"name": "mcar", "threshold": 1.0}}, r"method\.threshold: found 1\.0"),
        (
            {"method": {"name": "mcar"}, "model__head": {"name": "csra"}},
            r"model\.head\.name: found a CSRA head, expected linear",
        ),
    ],
    ids=str,
)
def test_a_mistake_names_its_key_before_the_run_folder_is_made(overrides, expected, tiny_config, tmp_path):
    with pytest.raises(UserError, match=expected) as caught:
        train(tiny_config(**overrides), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_example_is_valid(request):
    config, _ = load_config(request.config.rootpath / "configs" / "examples" / "shapes_mcar.yaml")
    assert (config.method.name, config.method.options["top"], config.model.head.name) == ("mcar", 2, "linear")
