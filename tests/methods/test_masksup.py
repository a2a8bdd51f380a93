"""MaskSup against its formula written out, and what it promises about views, masks and the device."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_same_run
from networks import build_network
from PIL import Image
from torch import Tensor, nn
from watch import no_questions

from masksup.base.place import Place
from masksup.cli import main
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.data.masks import choose, evaluation_masks, hide, unpack
from masksup.engine.build import new_method, new_network
from masksup.engine.parallel.engine import make_engine
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.evaluation.blocks import masked_blocks
from masksup.exits import STOPPED
from masksup.losses.bce import BinaryCrossEntropy
from masksup.methods.masksup import MaskSup, consistency
from masksup.methods.mcar import MCAR
from masksup.models.network import Network
from masksup.training.train import train

MakeConfig = Callable[..., Config]
C, S = 5, 32


def network(backbone: str = "test_resnet", head: str = "linear", **options: Any) -> Network:
    torch.manual_seed(0)
    return build_network(backbone, S, head, options, C, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def method(net: Network, seed: int = 3, **options: Any) -> MaskSup:
    made = MaskSup(net, BinaryCrossEntropy(torch.ones(C), torch.ones(C)), **{"bank": 50, **options}).train()
    made.set_up(seed)
    return made


def batch(n: int = 6, start: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(start)
    return {
        "image": torch.randint(0, 256, (n, 3, S, S), dtype=torch.uint8, generator=draw),
        "target": torch.randint(-1, 2, (n, C), dtype=torch.int8, generator=draw),
        "sample": torch.arange(n),
        "position": torch.arange(start, start + n),
    }


def literal_loss(clean: Tensor, masked: Tensor, targets: Tensor) -> list[float]:
    """Section 3 of the paper, pair by pair: the three terms over the pairs that carry a label."""
    terms = [0.0, 0.0, 0.0]
    counted = 0
    for b in range(len(clean)):
        for c in range(C):
            y = int(targets[b, c])
            if y < 0:
                continue
            counted += 1
            p, q = (1 / (1 + math.exp(-float(logits[b, c]))) for logits in (clean, masked))
            terms[0] -= math.log(p if y else 1 - p)
            terms[1] -= math.log(q if y else 1 - q)
            terms[2] += (p - q) ** 2
    return [term / counted for term in terms]


@pytest.mark.parametrize("views", ["separate", "concat"])
def test_loss_is_the_published_formula(views: str) -> None:
    net, data = network(), batch()
    ours = method(copy.deepcopy(net), views=views)
    loss, logs = ours(data)
    keep = ~ours.holes(data["position"])
    x = net.train().normalize(data["image"])
    if views == "separate":
        clean, masked = net.head(net.backbone(x)), net.head(net.backbone(x * keep))
    else:
        clean, masked = net.head(net.backbone(torch.cat([x, x * keep]))).chunk(2)
    terms = literal_loss(clean.detach(), masked.detach(), data["target"])
    assert [float(logs[f"loss_{n}"]) for n in ("clean", "masked", "consistency")] == pytest.approx(terms, rel=1e-5)
    assert float(loss.detach()) == pytest.approx(0.3 * terms[0] + 0.2 * terms[1] + 0.5 * terms[2], rel=1e-5)
    assert terms[2] > 1e-5


def test_consistency_pulls_both_views_and_leaves_ignored_pairs_alone() -> None:
    clean, masked = (torch.randn(3, C, dtype=torch.float64, requires_grad=True) for _ in range(2))
    targets = torch.randint(-1, 2, (3, C), dtype=torch.int8)
    consistency(clean, masked, targets).backward()
    p, q = clean.detach().sigmoid(), masked.detach().sigmoid()
    counted = (targets >= 0).double()
    scale = 2 * (p - q) * counted / counted.sum()
    assert clean.grad is not None
    assert masked.grad is not None
    torch.testing.assert_close(clean.grad, scale * p * (1 - p), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(masked.grad, -scale * q * (1 - q), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weights", [(0.3, 0.2, 0.5), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_gradient_is_that_of_the_formula_through_both_views(weights: tuple[float, float, float]) -> None:
    net, data = network(), batch()
    ours = method(copy.deepcopy(net), weights=weights, views="separate")
    ours(data)[0].backward()
    net.train()
    x, counted = net.normalize(data["image"]), data["target"] >= 0
    clean = net.head(net.backbone(x))
    masked = net.head(net.backbone(x * ~ours.holes(data["position"])))
    wanted = (data["target"] == 1).float()
    a, b = (nn.functional.binary_cross_entropy_with_logits(v[counted], wanted[counted]) for v in (clean, masked))
    c = nn.functional.mse_loss(clean.sigmoid()[counted], masked.sigmoid()[counted])
    (weights[0] * a + weights[1] * b + weights[2] * c).backward()
    for (name, mine), theirs in zip(ours.network.named_parameters(), net.parameters()):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_concat_equals_separate_where_samples_are_normalised_alone_and_auto_knows() -> None:
    data, net = batch(), network("test_vit", "csra")
    losses, gradients = [], []
    for views in ("separate", "concat"):
        ours = method(copy.deepcopy(net), views=views)
        loss, _ = ours(data)
        loss.backward()
        losses.append(loss)
        gradients.append([p.grad for p in ours.parameters()])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-7)
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    assert method(net).views == "concat"
    assert method(network()).views == "separate"


def test_batch_norm_sees_the_clean_view_first_and_then_the_masked_one() -> None:
    net, data = network(), batch()
    ours = method(copy.deepcopy(net))
    ours(data)
    net.train()
    x = net.normalize(data["image"])
    with torch.no_grad():
        net.backbone(x)
        net.backbone(x * ~ours.holes(data["position"]))
    after = ours.network.state_dict()
    statistics = {name: value for name, value in net.state_dict().items() if "running" in name or "tracked" in name}
    assert statistics
    for name, value in statistics.items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-6, msg=name)
        if "tracked" in name:
            assert value == 2


@pytest.mark.parametrize("masks", ["irregular", "patches"])
def test_mask_is_a_function_of_seed_and_position(masks: str) -> None:
    net = network()
    options = {"masks": masks, "patch": 8}
    ours, again, other = method(net, 3, **options), method(net, 3, **options), method(net, 4, **options)
    positions = torch.tensor([7, 0, 123_456_789_012, 7, 31])
    holes = ours.holes(positions)
    assert holes.shape == (5, 1, S, S)
    assert torch.equal(holes, again.holes(positions))
    assert torch.equal(holes[0], holes[3])
    for row, position in enumerate(positions):  # alone, or in whatever company
        assert torch.equal(ours.holes(position[None])[0], holes[row])
    assert not torch.equal(holes, other.holes(positions))
    assert len({ours.holes(torch.tensor([p])).numpy().tobytes() for p in range(200)}) > 40


def test_masks_of_a_folder_are_dealt_anew_for_each_seed(tmp_path: Path) -> None:
    for number in range(30):
        picture = Image.new("L", (S, S))
        picture.paste(255, (0, 0, number + 1, 10))
        picture.save(tmp_path / f"{number:02d}.png")
    net, positions = network(), torch.arange(40)
    a, b = (method(net, seed, masks="folder", folder=str(tmp_path)).holes(positions) for seed in (0, 1))
    assert (a != b).flatten(1).any(1).double().mean() > 0.8


def test_each_sample_is_scored_under_the_mask_of_its_own_id() -> None:
    masks = evaluation_masks("high", S, [f"{n}" for n in range(7)])
    images, mean, cpu = torch.full((8, 3, S, S), 255, dtype=torch.uint8), torch.zeros(3, 1, 1), torch.device("cpu")
    for size in (2, 4, 8):  # 7 samples; the last block is padded by repeating the last of them
        others = torch.ones(size, dtype=torch.bool), torch.zeros(size), torch.arange(size)
        blocks = [(images[:size], *others) for _ in range(8 // size)]
        seen = torch.cat([inputs.to(cpu) for inputs, *_ in masked_blocks(iter(blocks), masks, mean, range(8 // size))])
        for n, number in enumerate([0, 1, 2, 3, 4, 5, 6, 6]):
            holes = unpack(masks.bank[masks.index_N[number]][None], S)[0]
            assert torch.equal(seen[n], (~holes).float().expand(3, -1, -1)), (size, n)


@pytest.mark.parametrize("views", ["separate", "concat"])
def test_a_training_step_asks_the_device_nothing(views: str, tiny_config: MakeConfig) -> None:
    config = tiny_config(optim={"name": "sgd", "lr": 0.01})
    ours = method(network(), views=views)
    cpu = torch.device("cpu")
    stepper = Stepper(make_engine(config, ours, cpu, torch.float32, Place()), cpu, 0)
    with no_questions():
        logs = stepper.step([batch(), batch(start=6)], 0, 0.0)
    assert {"loss", "loss_clean", "loss_masked", "loss_consistency"} <= logs.keys()


@pytest.mark.parametrize(
    "overrides",
    [{}, {"model__backbone": "test_vit"}, {"precision": {"threads": 1, "dtype": "bf16"}}],
    ids=str,
)
def test_resume_is_bit_equal(
    overrides: dict[str, Any], tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(method={"name": "masksup", "bank": 30}, epochs=1, **overrides)
    assert train(config, tmp_path / "clean") == 0
    calls = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM" if next(calls) >= 2 else None)
        assert train(config, tmp_path / "cut") == STOPPED
    assert train(config, tmp_path / "cut") == 0
    assert_same_run(tmp_path / "cut", tmp_path / "clean")
    row = json.loads((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()[1])
    assert row["loss_consistency"] > 0


def test_the_masks_follow_the_seed_of_the_run_and_are_made_for_training_only(tiny_config: MakeConfig) -> None:
    from masksup.data.split import open_source

    config = tiny_config(method={"name": "masksup", "bank": 20}, seed=8)
    net = new_network(config, 12)
    part = open_source(config.data, config.seed).train
    trained, scored = new_method(config, net, 12, part), new_method(config, net, 12, None)
    assert isinstance(trained, MaskSup)
    assert isinstance(scored, MaskSup)
    assert trained.seed == 8
    assert len(trained.bank) == 20
    assert len(scored.bank) == 0
    assert not any("bank" in name for name in trained.state_dict())


def test_eval_under_masks_names_them_and_is_repeatable(
    tiny_config: MakeConfig, tiny_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(tiny_config(epochs=1), run) == 0  # any method can be scored under masks
    scores: dict[str, Any] = {}
    for name, arguments in {"clean": [], "low": ["low"], "high": ["high"], "again": ["high"]}.items():
        file, arrays = tmp_path / f"{name}.json", tmp_path / f"{name}.npz"
        masked = ["--masked", *arguments] if arguments else []
        data = ["--data", str(tiny_data / "val"), "--json", str(file), "--predictions", str(arrays)]
        assert main(["eval", str(run), *data, *masked]) == 0
        scores[name] = json.loads(file.read_text())
        scores[name]["bytes"] = arrays.read_bytes()
    assert scores["clean"]["protocol"]["masked"] is None
    assert scores["high"]["protocol"]["masked"]["level"] == "high"
    assert scores["high"]["protocol"]["masked"]["hole_ratio"] == [0.5, 0.6]
    assert scores["high"]["bytes"] == scores["again"]["bytes"]
    assert len({scores[name]["bytes"] for name in ("clean", "low", "high")}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": "folder"}, "method.folder: not set"),
        ({"folder": "{tmp}"}, "method.folder: set, but method.masks is irregular"),
        ({"masks": "folder", "folder": "{tmp}/empty"}, "found no .png in it"),
        ({"masks": "folder", "folder": "{tmp}/none"}, "no such folder"),
        ({"masks": "folder", "folder": "{tmp}/full"}, "hides the whole image"),
        ({"masks": "stars"}, "method.masks: found 'stars'"),
        ({"views": "twice"}, "method.views: found 'twice'"),
        ({"hole_ratio": [0.6, 0.5]}, "method.hole_ratio: found [0.6, 0.5]"),
        ({"masks": "patches", "hole_ratio": [0.1, 0.5]}, "method.hole_ratio: set"),
        ({"masks": "patches", "patch_ratio": 1.0}, "method.patch_ratio: found 1.0"),
        ({"masks": "patches", "patch": 0}, "method.patch: found 0"),
        ({"weights": [0, 0, 0]}, "method.weights: found [0.0, 0.0, 0.0]"),
        ({"bank": 0}, "method.bank: found 0"),
        ({"mask": "x"}, "method.mask: not an option of method 'masksup'"),
    ],
    ids=str,
)
def test_wrong_input_is_one_line_before_training_starts(
    options: dict[str, Any], message: str, tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    Image.new("L", (40, 40), 255).save(tmp_path / "full" / "a.png")
    tree = to_yaml(tiny_config()).replace("method:\n  name: baseline\n", "")
    given = {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in options.items()}
    config = tmp_path / "run.yaml"
    config.write_text(tree + "method: " + json.dumps({"name": "masksup", **given}) + "\n")
    assert main(["train", str(config), "--run-dir", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_frozen_backbone_is_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"method\.name: masksup does not go with model\.frozen"):
        tiny_config(method={"name": "masksup"}, model__frozen=True)


def test_mixed_is_plain_training_with_half_of_the_images_masked() -> None:
    net, data = network(), batch(n=64)
    ours = method(copy.deepcopy(net), views="mixed")
    loss, _ = ours(data)
    hidden = []
    masked = hide(data["image"], ours.holes(data["position"]), net.mean)
    clean_B3SS = data["image"].float() / 255
    for half in (choose(data["position"], 4, 2).bool(), ~choose(data["position"], 4, 2).bool()):
        images = torch.where(half[:, None, None, None], masked, clean_B3SS)
        expected = BinaryCrossEntropy(torch.ones(C), torch.ones(C))(net.train()(images), data["target"])
        hidden.append(bool(torch.isclose(loss, expected)))
        assert 20 <= int(half.sum()) <= 44
    assert hidden == [True, False]


@pytest.mark.parametrize("views", ["separate", "concat"])
def test_masksup_around_mcar_sums_the_streams_and_compares_what_it_would_predict(views: str) -> None:
    net, data = network("test_vit"), batch()
    ours = method(copy.deepcopy(net).eval(), views=views, base={"name": "mcar", "top": 2}).eval()
    loss, logs = ours(data)
    bce = BinaryCrossEntropy(torch.ones(C), torch.ones(C))
    mcar = MCAR(net, bce, top=2).eval()
    clean = mcar.streams(data["image"].float() / 255)
    masked = mcar.streams(hide(data["image"], ours.holes(data["position"]), net.mean))
    terms = [
        sum(bce(stream, data["target"]) for stream in clean),
        sum(bce(stream, data["target"]) for stream in masked),
        consistency(torch.maximum(*clean), torch.maximum(*masked), data["target"]),
    ]
    torch.testing.assert_close(loss, 0.3 * terms[0] + 0.2 * terms[1] + 0.5 * terms[2])
    torch.testing.assert_close(logs["loss_consistency"], terms[2].detach())
    assert torch.equal(ours.predict(data["image"]), mcar.predict(data["image"]))
    loss.backward()
    assert all(p.grad is not None for p in ours.network.parameters())


def test_a_base_that_does_not_fit_is_refused_by_key(tiny_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"method\.base\.topp: not an option of method 'mcar'"):
        tiny_config(method={"name": "masksup", "base": {"name": "mcar", "topp": 3}})
    with pytest.raises(UserError, match=r"method\.base\.name: found 'masksup', expected baseline or mcar"):
        method(network(), base={"name": "masksup"})
