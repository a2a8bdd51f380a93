"""masksup import: the logits of the original networks come back, and nothing is guessed or left over."""

import argparse
import json
import os
import pickle
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import originals
import pytest
import torch
from methods.test_localise import literal_original
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.cli import main as masksup
from masksup.commands import import_weights
from masksup.data.index import open_index
from masksup.models.originals.classes import COCO_CLASSES, ORDERS, classes_named
from masksup.models.originals.settings import PRESETS, preset_named
from masksup.runtime.checkpoint import read_meta
from masksup.saved.open import open_trained

ROOT = Path(__file__).resolve().parents[1]
NONE, HALF, IMAGENET = ((0.0,) * 3, (1.0,) * 3), ((0.5,) * 3, (0.5,) * 3), originals.IMAGENET
R50 = [3, 4, 6, 3]


def tool(arguments: list[str]) -> int:
    """masksup import; its exit status, of a wrong option too."""
    try:
        return masksup(["import", *arguments])
    except SystemExit as leaving:
        return int(leaving.code or 0)


def images(size: int, count: int = 2) -> Tensor:
    """uint8 pictures with large and small structure."""
    generator = torch.Generator().manual_seed(3)
    coarse = F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), (size, size), mode="bicubic")
    noise = torch.rand(count, 3, size, size, generator=generator)
    return (255 * (0.8 * coarse + 0.2 * noise).clamp(0, 1)).byte()


def normalised(pictures: Tensor, normalization: tuple[Any, Any]) -> Tensor:
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in normalization)
    return (pictures.float() / 255 - mean) / std


def assert_same_logits(run: Path, pictures: Tensor, expected: Tensor) -> None:
    with torch.no_grad():
        found = open_trained(run).method.predict(pictures)
    assert expected.std(1).min() > 0.02, "the oracle tells classes apart"
    assert (expected[0] - expected[1]).abs().max() > 0.02, "and images"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def wrapped(state: dict[str, Tensor], prefix: str = "module.", *, tracked: bool = False) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items() if tracked or not key.endswith("num_batches_tracked")}


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str], out: Path) -> str:
    """The one line of an import that exits with 2 and leaves nothing behind."""
    before = sorted(out.parent.iterdir())
    assert tool([*arguments, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("masksup")
    assert sorted(out.parent.iterdir()) == before
    return message


CSRA_OPTIONS = ["--lam", "0.4", "--normalization", "none", "--size", "96"]


@pytest.fixture(scope="module")
def resnet() -> originals.CSRAResNet:
    net = originals.randomise(originals.CSRAResNet(R50, 14, 6))
    assert isinstance(net, originals.CSRAResNet)
    return net


@pytest.fixture(scope="module")
def resnet_file(resnet: originals.CSRAResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("csra") / "epoch_7.pth", resnet.state_dict())


@pytest.mark.parametrize(("multi_gpu", "legacy"), [pytest.param(False, False, marks=pytest.mark.slow), (True, True)])
def test_csra_resnet(
    tmp_path: Path, resnet: originals.CSRAResNet, multi_gpu: bool, legacy: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    state = wrapped(resnet.state_dict()) if multi_gpu else resnet.state_dict()
    file = saved(tmp_path / "epoch_7.pth", state, _use_new_zipfile_serialization=not legacy)
    assert tool([str(file), "--out", str(tmp_path / "run"), "--classes", "wider", *CSRA_OPTIONS]) == 0
    assert "14 classes, 6 heads" in capsys.readouterr().out
    pictures = images(96)
    with torch.no_grad():
        expected = resnet(normalised(pictures, NONE), 0.4)
    assert_same_logits(tmp_path / "run", pictures, expected)


def test_an_imported_run_is_scored_predicts_and_starts_another(
    tmp_path: Path, resnet_file: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool([str(resnet_file), "--out", str(tmp_path / "run"), "--classes", "wider", *CSRA_OPTIONS]) == 0
    Image.fromarray(images(80)[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    assert masksup(["predict", str(tmp_path / "run"), str(tmp_path / "a.png")]) == 0
    assert "a.png prediction: " in capsys.readouterr().out
    assert masksup(["eval", str(tmp_path / "run")]) == 2
    assert "--data: not given" in capsys.readouterr().err
    assert masksup(["eval", str(tmp_path / "run"), "--data", str(tiny_data / "val")]) == 2
    assert "found other classes" in capsys.readouterr().err
    (tmp_path / "fine.yaml").write_text(
        f"epochs: 0.1\ndata: {{train: {tiny_data / 'train'}, workers: 0}}\nbatch: {{global: 2}}\n"
        f"model: {{backbone: resnet50, size: 32, weights: {tmp_path / 'run'}}}\n"
    )
    assert (
        masksup(["train", str(tmp_path / "fine.yaml"), "--run-dir", str(tmp_path / "fine"), "precision.threads=1"]) == 0
    )
    assert "backbone (the head is new" in capsys.readouterr().out


def test_masksup_eval_scores_an_import(tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = open_index(tiny_data / "val")
    net = originals.randomise(originals.CSRAViT(192, 12, 32, len(index.classes), 1))
    file = saved(tmp_path / "vit.pth", net.state_dict())
    options = ["--lam", "0.3", "--normalization", "half", "--classes", ",".join(index.classes)]
    assert tool([str(file), "--out", str(tmp_path / "run"), *options]) == 0
    scores = tmp_path / "scores.json"
    assert masksup(["eval", str(tmp_path / "run"), "--data", str(tiny_data / "val"), "--json", str(scores)]) == 0
    assert json.loads(scores.read_text())["protocol"]["resolution"] == 32


@pytest.mark.parametrize(("heads", "size"), [pytest.param(1, 224, marks=pytest.mark.slow), (8, 112)])
def test_csra_vit(tmp_path: Path, heads: int, size: int) -> None:
    net = originals.randomise(originals.CSRAViT(192, 12, size, 9, heads))
    file = saved(tmp_path / "epoch_1.pth", wrapped(net.state_dict()))
    options = ["--lam", "1.0", "--normalization", "half", "--classes", "a,b,c,d,e,f,g,h,i"]
    assert tool([str(file), "--out", str(tmp_path / "run"), *options]) == 0
    pictures = images(size)
    with torch.no_grad():
        expected = net(normalised(pictures, HALF), 1.0)
    assert_same_logits(tmp_path / "run", pictures, expected)


def test_another_size_of_a_vit_is_said_to_be_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "v.pth", originals.CSRAViT(192, 12, 64, 2, 1).state_dict())
    options = ["--lam", "1.0", "--normalization", "half", "--classes", "a,b", "--size", "96"]
    assert tool([str(file), "--out", str(tmp_path / "run"), *options]) == 0
    assert "pos_embed: 4x4 resampled to 6x6, which makes it another model" in capsys.readouterr().out


def test_a_preset_of_another_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "v.pth", originals.CSRAViT(192, 12, 64, 14, 1).state_dict())
    message = refusal(capsys, [str(file), "--preset", "msl_v_wider"], tmp_path / "run")
    assert "14 classes, 1 head, 64 px; expected CSRA or MSL on a ViT, 14 classes, 1 head, 224 px" in message


def test_the_layout_at_448_is_refused_or_assumed_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = originals.randomise(originals.CSRAViT(192, 12, 96, 80, None))
    file = saved(tmp_path / "vit_L16_224_coco_head8_86.5.pth", net.state_dict())
    options = [str(file), "--lam", "1.0", "--classes", "coco", "--normalization", "half"]
    message = refusal(capsys, options, tmp_path / "run")
    assert "--assume-layout" in message
    assert "86.5 or 86.9 mAP" in message
    assert "the bias of each" in message
    open_options = [str(file), "--assume-layout", "--lam", "1.0", "--classes", "coco"]
    assert "--normalization" in refusal(capsys, open_options, tmp_path / "run")
    assert tool([*options, "--assume-layout", "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "assumed, not known: head takes no part" in printed
    assert "head.weight, head.bias" in printed
    pictures = images(96)
    with torch.no_grad():
        expected = net(normalised(pictures, HALF), 1.0)
    assert_same_logits(tmp_path / "run", pictures, expected)
    trained = open_trained(tmp_path / "run")
    assert "head1 to head8 are the temperatures" in trained.note
    assert len(read_meta(tmp_path / "run/checkpoints/best")["imported"]["assumed"]) == 4


@pytest.mark.slow  # short: TResNet's trunk, tests/models/test_originals.py
@pytest.mark.parametrize("dimensions", [2, 4])
def test_tresnet_with_negative_scales(tmp_path: Path, dimensions: int, capsys: pytest.CaptureFixture[str]) -> None:
    net = originals.randomise(originals.TResNetM(20))
    for module in net.modules():
        if isinstance(module, originals.ABN):
            assert (module.weight < 0).any()
    state = net.state_dict()
    if dimensions == 2:  # MSL: no buffers of the blur, a prefix; MIIL: wrapped in `model`
        content: Any = {f"module.{key}": value for key, value in state.items() if not key.endswith(".filt")}
    else:
        content = {"model": state, "epoch": 3}
    file = saved(tmp_path / "epoch_2.pth", content)
    assert tool([str(file), "--out", str(tmp_path / "run"), "--classes", "voc", "--size", "96",
                 "--normalization", "none"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "InPlace-ABN weights w became |w| + 1e-05" in printed
    assert ("body.layer2.0.conv1.1.filt" in printed) == (dimensions == 4)
    pictures = images(96)
    with torch.no_grad():
        expected = net(normalised(pictures, NONE))
    assert_same_logits(tmp_path / "run", pictures, expected)


@pytest.mark.parametrize(
    ("trunk", "pool", "top"), [pytest.param("resnet50", "gwp", 2, marks=pytest.mark.slow), ("mobilenetv2", "avg", 4)]
)
def test_mcar(tmp_path: Path, trunk: str, pool: str, top: int) -> None:
    net = originals.randomise(originals.MCARNet(trunk, 20))
    assert len(net.state_dict()) == {"resnet50": 320, "mobilenetv2": 314}[trunk]
    content = {"epoch": 12, "arch": None, "state_dict": net.state_dict(), "best_score": torch.tensor(91.25)}
    file = saved(tmp_path / "model_best.pth.tar", content)
    options = ["--preset", f"voc2007-{trunk}-{pool}-96-{top}-0.5"]
    assert tool([str(file), "--out", str(tmp_path / "run"), *options]) == 0
    pictures = images(96)

    def locate(profile: list[float], threshold: float) -> tuple[int, int]:
        start, end = literal_original(np.array(profile, np.float32), threshold)
        return start, end

    with torch.no_grad():
        expected = net(normalised(pictures, IMAGENET), pool, top, 0.5, locate)
    assert_same_logits(tmp_path / "run", pictures, expected)
    config = open_trained(tmp_path / "run").config
    assert config.method.options == {"top": top, "threshold": 0.5, "compat": "original"}


def test_mcar_on_coco_is_in_alphabetical_order(tmp_path: Path) -> None:
    state = {key: torch.zeros_like(value) for key, value in originals.MCARNet("mobilenetv2", 80).state_dict().items()}
    file = saved(tmp_path / "model.pth.tar", {"state_dict": state})
    assert tool([str(file), "--out", str(tmp_path / "run"), "--preset", "coco2014-mobilenetv2-avg-256-4-0.5"]) == 0
    classes = open_trained(tmp_path / "run").classes
    assert classes[:3] == ("airplane", "apple", "backpack")
    assert sorted(COCO_CLASSES) == list(classes)


def test_paddle(tmp_path: Path, resnet: originals.CSRAResNet, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = paddle_arrays(resnet.state_dict())
    (tmp_path / "epoch_1.pdparams").write_bytes(pickle.dumps(arrays, protocol=4))
    arguments = [str(tmp_path / "epoch_1.pdparams"), "--out", str(tmp_path / "run"), "--classes", "wider"]
    assert tool([*arguments, *CSRA_OPTIONS]) == 0
    assert "backbone.fc.weight, backbone.fc.bias" in capsys.readouterr().out
    pictures = images(96)
    with torch.no_grad():
        expected = resnet(normalised(pictures, NONE), 0.4)
    assert_same_logits(tmp_path / "run", pictures, expected)


PUZZLE = ["--classes", "voc", "--size", "96"]


@pytest.mark.parametrize("csi", [pytest.param(False, marks=pytest.mark.slow), True])
def test_puzzle_cam_and_oass(tmp_path: Path, csi: bool, capsys: pytest.CaptureFixture[str]) -> None:
    net = originals.randomise(originals.Puzzle(csi=csi))
    file = saved(tmp_path / "best.pth", net.state_dict())
    assert tool([str(file), "--out", str(tmp_path / "run"), *PUZZLE]) == 0
    printed = capsys.readouterr().out
    assert "dropped, copy of the trunk (318): stage1.0.weight, " in printed
    assert "stage5.0.2.bn3.num_batches_tracked" in printed
    pictures = images(96)
    with torch.no_grad():
        expected = net(normalised(pictures, IMAGENET))
    assert_same_logits(tmp_path / "run", pictures, expected)
    config = open_trained(tmp_path / "run").config
    assert (config.model.last_stage_stride, config.augment.eval_resize) == (1, "top_left")


def test_puzzle_cam_without_counters_and_with_a_prefix(tmp_path: Path) -> None:
    state = wrapped(originals.Puzzle(csi=True).state_dict())
    assert tool([str(saved(tmp_path / "p.pth", state)), "--out", str(tmp_path / "run"), *PUZZLE]) == 0


PUZZLE_EDITS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "a copy differs": (
        lambda state: state.update({"stage3.0.1.conv2.weight": state["stage3.0.1.conv2.weight"] + 1e-6}),
        "stage3.0.1.conv2.weight differs from model.layer2.1.conv2.weight",
    ),
    "a copy missing": (lambda state: state.pop("stage1.1.bias"), "found model.bn1.bias without its copy"),
    "a copy alone": (lambda state: state.pop("model.bn1.bias"), "found stage1.1.bias without model.bn1.bias"),
    "a copy of another shape": (
        lambda state: state.update({"stage1.1.bias": torch.zeros(3)}), "stage1.1.bias differs from model.bn1.bias",
    ),
    "twice under one name": (lambda state: state.update({"bn1.bias": torch.zeros(64)}), "found both"),
    "a class missing": (lambda state: state.pop("BN.7.running_mean"), "found no BN.7.running_mean"),
    "a score missing": (lambda state: state.pop("stage6.19.weight"), "found no stage6.19.weight"),
    "a class more": (lambda state: state.update({"BN.20.bias": torch.zeros(2048)}), "1 unexpected, first BN.20.bias"),
    "another width": (
        lambda state: state.update({"stage6.3.weight": torch.ones(1, 9, 1, 1)}),
        "stage6.3.weight has the shape [1, 9], expected [1, 2048]",
    ),
    "no classifier": (lambda state: state.pop("classifier.weight"), "found no classifier.weight"),
    "a ResNeSt": (
        lambda state: state.update({"model.conv1.0.weight": torch.zeros(32, 3, 3, 3)}), "on a ResNeSt",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def oass_state() -> dict[str, Tensor]:
    return dict(originals.Puzzle(csi=True).state_dict())


@pytest.mark.parametrize("edit", PUZZLE_EDITS)
def test_an_oass_file_that_is_not_whole(
    tmp_path: Path, oass_state: dict[str, Tensor], edit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(oass_state)
    PUZZLE_EDITS[edit][0](state)
    message = refusal(capsys, [str(saved(tmp_path / "o.pth", state)), *PUZZLE], tmp_path / "run")
    assert PUZZLE_EDITS[edit][1] in message


def paddle_arrays(state: dict[str, Tensor]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = key.replace("running_mean", "_mean").replace("running_var", "_variance")
        arrays[name if name.startswith("classifier.") else f"backbone.{name}"] = value.numpy()
    arrays["backbone.fc.weight"] = np.zeros((2048, 1000), np.float32)
    arrays["backbone.fc.bias"] = np.zeros(1000, np.float32)
    arrays["StructuredToParameterName@@"] = {"backbone.conv1.weight": "conv2d_0.w_0"}
    return arrays


FULL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "CSRA R101": (lambda: originals.CSRAResNet([3, 4, 23, 3], 80, 6), 630),
    "CSRA ViT-B16": (lambda: originals.CSRAViT(768, 12, 224, 14, 1), 151),
    "MCAR R50": (lambda: originals.MCARNet("resnet50", 20), 320),
    "MCAR MobileNetV2": (lambda: originals.MCARNet("mobilenetv2", 20), 314),
    "Puzzle-CAM R50": (lambda: originals.Puzzle(csi=False), 637),
    "OASS R50": (lambda: originals.Puzzle(csi=True), 757),
}


@pytest.mark.parametrize("kind", FULL)
def test_the_oracles_have_as_many_tensors_as_the_originals(kind: str) -> None:
    make, count = FULL[kind]
    with torch.device("meta"):
        assert len(make().state_dict()) == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "size", "options", "normalization", "arguments"),
    [
        (lambda: originals.CSRAResNet([3, 4, 23, 3], 80, 6), 448, ["--preset", "msl_c_coco"], NONE, (0.4,)),
        (lambda: originals.CSRAViT(768, 12, 224, 14, 1), 224, ["--preset", "csra_wider_vit"], HALF, (0.3,)),
        (lambda: originals.CSRAViT(1024, 24, 224, 80, 8), 224, ["--preset", "msl_v_coco"], NONE, (1.0,)),
        (lambda: originals.Puzzle(csi=True), 512, ["--preset", "oass_voc12"], IMAGENET, ()),
        (lambda: originals.TResNetM(20), 448, ["--preset", "msl_tresnet_voc"], NONE, ()),
        (lambda: originals.CSRAViT(1024, 24, 448, 80, None), 448,
         ["--preset", "csra_coco_vit_l16_448", "--assume-layout", "--normalization", "half"], HALF, (1.0,)),
    ],
)  # fmt: skip
def test_full_size(
    tmp_path: Path, make: Callable[[], nn.Module], size: int, options: list[str], normalization: Any, arguments: Any
) -> None:
    net = originals.randomise(make())
    file = saved(tmp_path / "f.pth", net.state_dict())
    assert tool([str(file), "--out", str(tmp_path / "run"), *options]) == 0
    pictures = images(size)
    with torch.no_grad():
        expected = net(normalised(pictures, normalization), *arguments)
    del net
    assert_same_logits(tmp_path / "run", pictures, expected)


@pytest.mark.parametrize("absent", ["--lam", "--size", "--classes", "--normalization"])
def test_what_a_file_cannot_tell_has_to_be_given(
    tmp_path: Path, resnet_file: Path, absent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--lam": "0.4", "--size": "96", "--classes": "wider", "--normalization": "none"}
    del given[absent]
    message = refusal(capsys, [str(resnet_file), *(word for pair in given.items() for word in pair)], tmp_path / "run")
    assert f"does not tell {absent} (" in message


@pytest.mark.parametrize("absent", ["--pool", "--size", "--classes", "--top", "--threshold"])
def test_what_an_mcar_file_cannot_tell(tmp_path: Path, absent: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--pool": "avg", "--size": "64", "--classes": "voc", "--top": "4", "--threshold": "0.5"}
    del given[absent]
    file = saved(tmp_path / "m.pth.tar", {"state_dict": originals.MCARNet("mobilenetv2", 20).state_dict()})
    message = refusal(capsys, [str(file), *(word for pair in given.items() for word in pair)], tmp_path / "run")
    assert f"does not tell {absent} (" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", "voc"], "--classes voc: found 20 classes"),
        (["--classes", "a,b"], "expected as many (such as wider)"),
        (["--classes", "missing.txt"], "missing.txt: no such file"),
        (["--preset", "msl_c_coco"], "expected CSRA or MSL on a ResNet, resnet101, 80 classes, 6 heads"),
        (["--size", "7"], "--size: found 7, expected 32 or more for resnet50"),
        (["--lam", "abc"], "argument --lam: found abc, expected a finite number"),
        (["--lam", "-1"], "argument --lam: found -1, expected 0 or more"),
        (["--lamda", "1"], "unrecognized arguments: --lamda 1"),
        (["--preset", "msl_c_cocoo"], "did you mean 'msl_c_coco'"),
        (["--preset", "voc2007-resnet50-avg-256-4-0.5"], "expected MCAR on a ResNet"),
        (["--pool", "avg"], "--pool: has no meaning for"),
        (["--mean", "0,0,0"], "--mean and --std: found one"),
        (["--mean", "0,0,0", "--std", "1,1,1"], "--normalization: found it together with"),
        (["--assume-layout"], "--assume-layout: nothing has to be assumed"),
    ],
)
def test_options_that_do_not_suit_the_file(
    tmp_path: Path, resnet_file: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if options[0] == "--classes" else ["--classes", "wider"]
    assert words in refusal(capsys, [str(resnet_file), *given, *CSRA_OPTIONS, *options], tmp_path / "run")


def test_more_regions_than_classes_and_an_existing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "m.pth.tar", {"state_dict": originals.MCARNet("mobilenetv2", 2).state_dict()})
    options = [str(file), "--pool", "avg", "--size", "64", "--classes", "a,b", "--top", "4", "--threshold", "0.5"]
    assert "method.top: found 4" in refusal(capsys, options, tmp_path / "run")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("keep")
    options[options.index("--top") + 1] = "2"
    assert "exists already" in refusal(capsys, options, tmp_path / "there")
    assert (tmp_path / "there" / "mine").read_text() == "keep"


Edit = Callable[[dict[str, Tensor]], None]
EDITS: dict[str, tuple[Edit, str]] = {
    "a tensor missing": (lambda state: state.pop("layer3.2.conv2.weight"), "missing, first layer3.2.conv2.weight"),
    "a statistic missing": (lambda state: state.pop("bn1.running_var"), "missing, first bn1.running_var"),
    "a block missing": (
        lambda state: [state.pop(key) for key in list(state) if key.startswith("layer3.5.")], "(3, 4, 5, 3) blocks",
    ),
    "a head missing": (
        lambda state: state.pop("classifier.multi_head.2.head.weight"), "found 5 heads",
    ),
    "heads not in a row": (
        lambda state: state.update({"classifier.multi_head.9.head.weight":
                                    state.pop("classifier.multi_head.2.head.weight")}),
        "found no classifier.multi_head.2.head.weight",
    ),
    "one more": (lambda state: state.update({"layer5.weight": torch.zeros(3)}), "unexpected, first layer5.weight"),
    "one more counter": (
        lambda state: state.update({"layer5.num_batches_tracked": torch.tensor(0)}),
        "found layer5.num_batches_tracked, which has no place",
    ),
    "the removed classifier": (lambda state: state.update({"fc.bias": torch.zeros(3)}), "unexpected, first fc.bias"),
    "a bias": (
        lambda state: state.update({"classifier.multi_head.0.head.bias": torch.zeros(14)}),
        "unexpected, first classifier.multi_head.0.head.bias",
    ),
    "another shape": (
        lambda state: state.update({"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}),
        "first layer1.0.conv1.weight [64, 64, 3, 3] for [64, 64, 1, 1]",
    ),
    "another width": (
        lambda state: [state.update({key: torch.ones(14, 512, 1, 1)}) for key in list(state) if "multi_head" in key],
        "head.weight has the shape [6, 14, 512], expected [6, 14, 2048]",
    ),
    "heads of two sizes": (
        lambda state: state.update({"classifier.multi_head.1.head.weight": torch.ones(13, 2048, 1, 1)}),
        "classifier.multi_head.1.head.weight has the shape [13, 2048], expected [14, 2048]",
    ),
    "not a number": (
        lambda state: state.update({"bn1.running_var": torch.full((64,), torch.nan)}),
        "found values that are not finite in its tensor for backbone.model.bn1.running_var",
    ),
    "whole numbers": (
        lambda state: state.update({"bn1.weight": torch.ones(64, dtype=torch.int64)}), "found torch.int64",
    ),
    "a variance below 0": (
        lambda state: state.update({"bn1.running_var": torch.full((64,), -1e-3)}),
        "found a negative number in its tensor for backbone.model.bn1.running_var",
    ),
    "a class without a classifier": (
        lambda state: state.update({"classifier.multi_head.1.head.weight":
                                    torch.cat([torch.ones(13, 2048, 1, 1), torch.zeros(1, 2048, 1, 1)])}),
        "classifier.multi_head.1.head.weight: found only zeros in row 13",
    ),
    "a number": (
        lambda state: state.update({"classifier.multi_head.1.head.weight": torch.tensor(1.0)}), "has the shape []",
    ),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_with_a_tensor_too_few_too_many_or_wrong(
    tmp_path: Path, resnet: originals.CSRAResNet, edit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(resnet.state_dict())
    EDITS[edit][0](state)
    file = saved(tmp_path / "edited.pth", state)
    message = refusal(capsys, [str(file), "--classes", "wider", *CSRA_OPTIONS], tmp_path / "run")
    assert EDITS[edit][1] in message
    assert "edited.pth" in message


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pth.tar", "evil.pdparams"])
def test_nothing_is_executed(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    trap, file = tmp_path / "executed", tmp_path / name
    content = {"convclass.weight": torch.zeros(1), "evil": Payload(trap)}
    for make in (lambda: saved(file, content), lambda: file.write_bytes(pickle.dumps({"evil": Payload(trap)}))):
        make()
        message = refusal(capsys, [str(file)], tmp_path / "run")
        assert not trap.exists()
        assert f"{name}: not read" in message


def test_a_file_with_changed_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path / "w.pth", originals.MCARNet("mobilenetv2", 2).state_dict())
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    file.write_bytes(bytes(content))
    assert "w.pth: damaged: the checksum of " in refusal(capsys, [str(file)], tmp_path / "run")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float, capsys: pytest.CaptureFixture[str]) -> None:
    whole = saved(tmp_path / "w.pth", originals.MCARNet("mobilenetv2", 2).state_dict()).read_bytes()
    for name, content in (("cut.pth", whole), ("cut.pdparams", pickle.dumps({"backbone.a": np.zeros(9)}))):
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        assert f"{name}: " in refusal(capsys, [str(tmp_path / name)], tmp_path / "run")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a": 1, "b": 2}, "none of the known layouts (first tensors: a, b)"),
        ({"layer4.0.a": 1, "fc.weight": 0}, "ImageNet classifier"),
        ({"model.conv1.weight": 1, "stage1.0.weight": 1, "fc_edge1.0.weight": 1}, "AffinityNet"),
        ({"model.conv1.weight": 1, "stage1.0.weight": 1, "aspp.conv1.weight": 1}, "DeepLabv3+"),
        ({"body.conv1.0.weight": 1, "head.fc.embedding_generator.0.weight": 1}, "a bottleneck head"),
        ({"body.conv1.0.weight": 1, "head.decoder.query_embed.weight": 1}, "an ML-Decoder head"),
        ({"body.conv1.conv.weight": 1, "head.fc.weight": 1}, "TResNet under timm's names"),
        ({"features.17.conv.0.weight": 1, "conv.0.weight": 1}, "MobileNetV2 of ImageNet"),
        ({"body.conv1.0.weight": 1, "head.fc.weight": 1}, "expected tresnet_m, tresnet_l, tresnet_xl"),
        ({"cls_token": 1, "blocks.0.a": 1, "classifier.multi_head.0.head.weight": 1}, "found no pos_embed"),
        ({"blocks.0.a": 1, "classifier.multi_head.0.head.weight": 1, "pos_embed": 1}, "found no pos_embed"),
    ],
)  # fmt: skip
def test_other_networks_are_named(
    tmp_path: Path, state: dict[str, int], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {key: torch.zeros(3) if size else torch.zeros(1000, 4) for key, size in state.items()}
    assert words in refusal(capsys, [str(saved(tmp_path / "f.pth", tensors))], tmp_path / "run")


def test_help_and_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for missing in (tmp_path / "none.pth", tmp_path):
        assert "no such file" in refusal(capsys, [str(missing)], tmp_path / "run")
    assert tool(["--help"]) == 0


def test_the_commands_of_the_documentation_fit_their_files() -> None:
    text = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    commands = re.findall(r"^masksup import .*$", text, flags=re.MULTILINE)
    kinds = set()
    for command in commands:
        _, _, *arguments = shlex.split(command, comments=True)
        parser = argparse.ArgumentParser()
        import_weights.add_arguments(parser)
        args = parser.parse_args(arguments)
        given = import_weights._given(args)
        if args.preset:
            preset = preset_named(args.preset)
            kinds |= set(preset.kinds)
            given = {**preset.settings, **given}
        assert {"size", "classes"} <= given.keys(), command
        assert classes_named(given["classes"]), command
    assert len(commands) >= 10
    assert kinds == {"csra_resnet", "csra_vit", "csra_vit_448", "csra_paddle", "tresnet", "mcar_resnet",
                     "mcar_mobilenetv2", "puzzle", "oass"}  # fmt: skip
    rows = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(rows) == sorted(PRESETS)


@pytest.mark.shared
def test_class_orders_are_those_of_the_annotations(shared_data: Path) -> None:
    categories = json.loads((shared_data / "coco_small/annotations/instances_val.json").read_text())["categories"]
    by_id = [category["name"] for category in sorted(categories, key=lambda category: category["id"])]
    assert list(ORDERS["coco"]) == by_id
    order = json.loads((shared_data / "coco2014_stats/train2014_label_stats.json").read_text())["class_order"]
    assert list(ORDERS["coco-alphabetical"]) == order
    header = (shared_data / "voc2007_labels/classification_val.csv").read_text().splitlines()[0]
    assert list(ORDERS["voc"]) == header.split(",")[1:]
