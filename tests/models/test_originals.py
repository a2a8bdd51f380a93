"""`model.weights` from files of the originals, and .pdparams files read without executing anything."""

import collections
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import originals
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from masksup.errors import UserError
from masksup.models.backbones import build_backbone
from masksup.models.originals.contents import read_original
from masksup.models.originals.paddle_file import read_paddle
from masksup.models.originals.settings import PRESETS, preset_named
from masksup.models.weights import load_weights


def mobilenet() -> nn.Module:
    return originals.randomise(originals.MobileNetV2())


def mobilenet_features(net: Any, x: Tensor) -> Tensor:
    return net.conv(net.features(x))


def resnet_features(net: Any, x: Tensor) -> Tensor:
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer4(net.layer3(net.layer2(net.layer1(x))))


def puzzle_at_stride_32(csi: bool) -> nn.Module:
    net = originals.randomise(originals.Puzzle(csi=csi))
    for layer in (net.model.layer4[0].conv2, net.model.layer4[0].downsample[0]):  # type: ignore[union-attr,index]
        layer.stride = (2, 2)
    return net


def tresnet_features(net: Any, x: Tensor) -> Tensor:
    net.head.fc = nn.Identity()
    return net(x)[:, :, None, None]


def jx_vit() -> nn.Module:
    net = originals.CSRAViT(192, 12, 96, 5, 1)
    del net.classifier
    net.head = nn.Linear(192, 1000)
    return originals.randomise(net)


FILES: dict[str, tuple[Callable[[], nn.Module], str, Callable[[Any, Tensor], Tensor], str]] = {
    "csra resnet": (
        lambda: originals.randomise(originals.CSRAResNet([3, 4, 6, 3], 7, 2)), "resnet50",
        lambda net, x: net.features(x), "classifier.multi_head.0.head.weight",
    ),
    "csra vit": (
        lambda: originals.randomise(originals.CSRAViT(192, 12, 96, 5, 1)), "vit_tiny_patch16_224",
        lambda net, x: net.features(x), "classifier.multi_head.0.head.weight",
    ),
    "csra vit at 448": (
        lambda: originals.randomise(originals.CSRAViT(192, 12, 96, 5, None)), "vit_tiny_patch16_224",
        lambda net, x: net.features(x), "head1.bias",
    ),
    "jx vit": (jx_vit, "vit_tiny_patch16_224", lambda net, x: net.features(x), "head.bias"),
    "cutmix resnet": (
        lambda: originals.randomise(torchvision.models.resnet50(weights=None)), "resnet50", resnet_features, "fc.bias",
    ),
    "mcar resnet": (
        lambda: originals.randomise(originals.MCARNet("resnet50", 20)), "resnet50",
        lambda net, x: net.features(x), "convclass.bias",
    ),
    "mcar mobilenet": (
        lambda: originals.randomise(originals.MCARNet("mobilenetv2", 20)), "mobilenetv2_100",
        lambda net, x: net.features(x), "convclass.bias",
    ),
    "mobilenet": (mobilenet, "mobilenetv2_100", mobilenet_features, "classifier.bias"),
    "puzzle": (
        lambda: puzzle_at_stride_32(False), "resnet50", lambda net, x: resnet_features(net.model, x), "stage1.0.weight",
    ),
    "oass": (
        lambda: puzzle_at_stride_32(True), "resnet50", lambda net, x: resnet_features(net.model, x), "BN.0.bias",
    ),
    "tresnet": (
        lambda: originals.randomise(originals.TResNetM(5)), "tresnet_m", tresnet_features, "body.layer2.0.conv1.1.filt",
    ),
}  # fmt: skip


# Short: the trunk of each file once; these are ResNet-50 under other names, which tests/test_import_weights.py reads.
RESNET_AGAIN = ("mcar resnet", "puzzle", "oass")


@pytest.mark.parametrize(
    "file", [pytest.param(name, marks=pytest.mark.slow if name in RESNET_AGAIN else []) for name in FILES]
)
def test_trunks_give_the_features_of_the_original(tmp_path: Path, file: str) -> None:
    make, name, features, dropped = FILES[file]
    net = make()
    state = {"module." + key: value for key, value in net.state_dict().items()}
    torch.save({"model": state} if file == "tresnet" else state, tmp_path / "w.pth")
    target = build_backbone(name, 96, grad_checkpointing=False, options={}).eval()
    report = load_weights(target, str(tmp_path / "w.pth"))
    assert dropped in report.dropped
    filled = target.model.state_dict()
    counters = sum(key.endswith("num_batches_tracked") for key in filled)
    assert report.matched == len(filled) - (counters if file == "tresnet" else 0)
    assert report.matched + len(report.dropped) == len(state)
    x = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        found, expected = target(x), features(net, x)
    if file == "tresnet":  # its oracle pools
        found = found.mean((2, 3), keepdim=True)
        assert "InPlace-ABN weights w became |w| + 1e-05" in report.line()
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)


def test_timms_own_tresnet_is_not_converted_again(tmp_path: Path) -> None:
    net = originals.randomise(timm.create_model("tresnet_m", num_classes=3))
    torch.save(net.state_dict(), tmp_path / "w.pth")
    target = build_backbone("tresnet_m", 96, grad_checkpointing=False, options={})
    assert load_weights(target, str(tmp_path / "w.pth")).changed == ()
    weight = target.model.state_dict()["body.conv1.bn.weight"]
    assert torch.equal(weight, net.state_dict()["body.conv1.bn.weight"])


def test_other_networks_give_their_trunk_and_wrong_ones_are_named(tmp_path: Path) -> None:
    state = dict(originals.Puzzle(csi=False).state_dict())
    del state["classifier.weight"]
    state |= {"fc_edge1.0.weight": torch.zeros(3), "path_indices_1": torch.zeros(3)}
    torch.save(state, tmp_path / "affinity.pth")
    target = build_backbone("resnet50", 96, grad_checkpointing=False, options={})
    assert load_weights(target, str(tmp_path / "affinity.pth")).matched == 318
    with pytest.raises(UserError, match=r"affinity.pth \(AffinityNet of Puzzle-CAM\): not weights of resnet18"):
        load_weights(
            build_backbone("resnet18", 96, grad_checkpointing=False, options={}), str(tmp_path / "affinity.pth")
        )
    state["model.layer3.0.bn1.extra"] = torch.zeros(3)
    torch.save(state, tmp_path / "affinity.pth")
    with pytest.raises(UserError, match=r"unexpected, first model\.layer3\.0\.bn1\.extra"):
        load_weights(target, str(tmp_path / "affinity.pth"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_paddle_files_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "c": np.array(7, np.int64),
        "d": np.zeros((0, 4), np.float16),
        "e": np.array([True, False]),
    }
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({**arrays, "StructuredToParameterName@@": {"a": "x"}}, protocol=protocol))
    found = read_paddle(path)
    assert found.keys() == arrays.keys()
    for key, value in arrays.items():
        assert found[key].shape == value.shape
        np.testing.assert_array_equal(found[key].numpy(), value)


class Call:
    """Pickles as a call of anything, with anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Call(print, "executed"), "found builtins.print"),
        (Call(eval, "1"), "found builtins.eval"),
        (Call(getattr, "", "join"), "found builtins.getattr"),
        (collections.OrderedDict(a=1), "found collections.OrderedDict"),
        (np.array([{"a": 1}], object), "array of type 'O8'"),
        (np.array(["text"]), "array of type 'U4'"),
        (np.array([(1, 2)], [("x", "f4"), ("y", "f4")]), "array of type 'V8'"),
        (np.array([1], ">f4"), "byte order '>'"),
        (np.float32(3), "found numpy"),
        (3, "int under 'a'"),
        ([np.zeros(2)], "list under 'a'"),
    ],
)
def test_paddle_files_hold_arrays_alone(
    tmp_path: Path, content: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"a": content}, protocol=4))
    with pytest.raises(UserError) as caught:
        read_paddle(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_paddle_array_cannot_claim_more_numbers_than_it_has(tmp_path: Path) -> None:
    state = (1, (10**12,), np.dtype("f4"), False, b"\0" * 8)

    class Claim:
        def __reduce__(self) -> Any:
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), state

    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"a": Claim()}, protocol=4))
    with pytest.raises(UserError, match=r"2 numbers for an array of shape \(1000000000000,\)"):
        read_paddle(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_paddle_file(tmp_path: Path, share: float) -> None:
    whole = pickle.dumps({"backbone.a": np.zeros(99, np.float32)}, protocol=4)
    path = tmp_path / "w.pdparams"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"w\.pdparams: not read"):
        read_paddle(path)


def test_depths_and_widths_are_read_from_shapes(tmp_path: Path) -> None:
    with torch.device("meta"):
        nets = {
            "resnet101": originals.CSRAResNet([3, 4, 23, 3], 2, 1),
            "resnet152": originals.CSRAResNet([3, 8, 36, 3], 2, 1),
            "vit_large_patch16_224": originals.CSRAViT(1024, 24, 32, 2, 4),
        }
    for name, net in nets.items():
        # One number stands for all of a tensor, so that the file stays small.
        torch.save({key: torch.ones(()).expand(value.shape) for key, value in net.state_dict().items()}, tmp_path / "w")
        found = read_original(tmp_path / "w")
        assert (found.backbone, found.classes) == (name, 2)


@pytest.mark.parametrize(
    "value",
    [torch.zeros(2, 3).to_sparse(), torch.zeros(3, dtype=torch.complex64), torch.empty(3, device="meta"),
     torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)],
)  # fmt: skip
def test_only_plain_tensors_are_read(tmp_path: Path, value: Tensor) -> None:
    torch.save({"body.conv1.0.weight": torch.zeros(64, 48, 3, 3), "body.conv1.1.weight": value}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: .*"):
        read_original(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["tresnet_m", "tresnet_l", "tresnet_xl"])
def test_sizes_of_tresnet(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=2)
    number = {"conv": "0", "bn": "1"}
    names = {
        key: re.sub(r"(conv\d|downsample\.1)\.(conv|bn)\.", lambda found: f"{found[1]}.{number[found[2]]}.", key)
        for key in net.state_dict()
    }
    zero = torch.zeros(())
    torch.save({names[key]: zero.expand(value.shape) for key, value in net.state_dict().items()}, tmp_path / "w")
    found = read_original(tmp_path / "w")
    assert (found.backbone, found.classes) == (name, 2)
    assert found.trunk.keys() == {key for key in net.state_dict() if not key.startswith("head.")}


def test_presets_name_settings_that_exist() -> None:
    for name in (*PRESETS, "coco2014-resnet101-gwp-576-4-0.5"):
        preset = preset_named(name)
        assert preset.settings["size"] in (224, 448, 512, 576)
        assert preset.settings["classes"] in ("voc", "coco", "coco-alphabetical", "wider")
    for name in ("voc2007-resnet101-gwp-448-4", "voc2007-vgg-gwp-448-4-0.5", ""):
        with pytest.raises(UserError, match="--preset: unknown"):
            preset_named(name)
