"""A ResNet whose last stage has no stride, beside the same network assembled by hand."""

import pytest
import timm
import torch
from torch.nn import functional as F

from masksup.config.load import validate
from masksup.engine.build import new_network
from masksup.errors import UserError
from masksup.models.backbones import build_backbone
from masksup.models.weights import load_weights


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "test_resnet", "resnet26d", "ecaresnet26t"])
def test_map_has_twice_the_side_and_weights_keep_their_names(name: str) -> None:
    plain, wide = (
        build_backbone(name, 96, grad_checkpointing=False, options={}, last_stage_stride=stride) for stride in (None, 1)
    )
    assert (plain.grid, plain.stride) == (3, 32)
    assert (wide.grid, wide.stride) == (6, 16)
    shapes = {key: value.shape for key, value in plain.state_dict().items()}
    assert shapes == {key: value.shape for key, value in wide.state_dict().items()}
    wide.eval().load_state_dict(plain.state_dict())
    assert wide(torch.rand(1, 3, 96, 96)).shape == (1, wide.width, 6, 6)
    assert wide(torch.rand(1, 3, 48, 48)).shape == (1, wide.width, 3, 3)


def test_it_is_the_last_stage_with_its_own_weights_and_neither_stride_nor_dilation() -> None:
    torch.manual_seed(0)
    wide = build_backbone("resnet50", 64, grad_checkpointing=False, options={}, last_stage_stride=1).eval()
    for name, parameter in wide.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(parameter)  # residual branches start at 0 and would hide what they compute
    model = timm.create_model("resnet50", num_classes=0, global_pool="").eval()
    model.load_state_dict(wide.model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = model.maxpool(model.act1(model.bn1(model.conv1(images))))
        x = model.layer3(model.layer2(model.layer1(x)))
        block = model.layer4[0]
        y = block.act1(block.bn1(block.conv1(x)))
        y = block.act2(block.bn2(F.conv2d(y, block.conv2.weight, padding=1)))
        y = block.bn3(block.conv3(y)) + block.downsample[1](F.conv2d(x, block.downsample[0].weight))
        expected = model.layer4[1:](block.act3(y))
        torch.testing.assert_close(wide(images), expected)
        dilated = timm.create_model("resnet50", num_classes=0, global_pool="", output_stride=16).eval()
        dilated.load_state_dict(wide.model.state_dict())
        assert not torch.allclose(dilated(images), expected, atol=1e-3)


def test_a_resnest_is_dilated_from_its_second_block_as_published() -> None:
    torch.manual_seed(0)
    wide = build_backbone("resnest26d", 64, grad_checkpointing=False, options={}, last_stage_stride=1).eval()
    for name, parameter in wide.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(parameter)
    # timm dilates the same blocks, but leaves the pooling out and keeps one of 2 x 2 in the shortcut.
    dilated = timm.create_model("resnest26d", num_classes=0, global_pool="", output_stride=16).eval()
    dilated.load_state_dict(wide.model.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(wide(images), dilated(images), atol=1e-3)
        dilated.layer4[0].avd_last = torch.nn.AvgPool2d(3, 1, padding=1)
        dilated.layer4[0].downsample[0] = torch.nn.Identity()
        torch.testing.assert_close(wide(images), dilated(images))


def test_a_run_takes_it_from_its_configuration(tmp_path: object) -> None:
    tree = {"data": {"train": "-"}, "model": {"backbone": "resnet18", "size": 64, "last_stage_stride": 1}}
    network = new_network(validate(tree, "test"), 3)
    assert network.backbone.grid == 4
    load_weights(network.backbone, "none")
    with pytest.raises(UserError, match=r"model\.last_stage_stride"):
        validate({**tree, "model": {**tree["model"], "last_stage_stride": 2}}, "test")  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("test_vit", {}, r"test_vit has no last residual stage \(layer4\) with a stride, expected a ResNet"),
        ("test_efficientnet", {}, r"has no last residual stage"),
        ("resnet18", {"output_stride": 16}, r"has no last residual stage \(layer4\) with a stride"),
        ("res2net50_26w_4s", {}, r"strides by a AvgPool2d \(layer4\.0\.pool\)"),
        ("resnetblur50", {}, r"strides by a ReflectedBlurPool \(layer4\.0\.aa\)"),
    ],
)
def test_a_backbone_without_such_a_stage_is_refused(name: str, options: dict[str, int], expected: str) -> None:
    size = 160 if name == "test_vit" else 64
    with pytest.raises(UserError, match=r"^model\.last_stage_stride: .*" + expected) as caught:
        build_backbone(name, size, grad_checkpointing=False, options=options, last_stage_stride=1)
    assert "\n" not in str(caught.value)
