"""One small model of each timm family as a backbone."""

import re

import pytest
import timm
import torch
from torch import Tensor

from masksup.errors import UserError
from masksup.models.backbones import Backbone, build_backbone

# name: (default size, another size, stride, options that make it small)
SMALL: dict[str, tuple[int, int, int, dict[str, object]]] = {
    "test_resnet": (160, 96, 32, {}),
    "tresnet_m": (224, 96, 32, {"layers": (1, 1, 1, 1)}),
    "mobilenetv2_035": (224, 96, 32, {}),
    "mobilenetv3_small_050": (224, 96, 32, {}),
    "test_efficientnet": (160, 96, 32, {}),
    "test_convnext": (160, 96, 32, {}),
    "test_convnext2": (160, 96, 32, {}),
    "test_nfnet": (160, 96, 32, {}),
    "test_mambaout": (160, 96, 32, {}),
    "test_maxvit": (160, 320, 32, {}),
    "swin_tiny_patch4_window7_224": (224, 448, 32, {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "swinv2_tiny_window8_256": (256, 128, 32, {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "vit_tiny_patch16_224": (224, 448, 16, {"depth": 2}),
    "test_vit": (160, 96, 16, {}),
    "test_vit3": (160, 96, 16, {}),
    "test_vit4": (160, 96, 16, {}),
    "test_vit_relpos": (160, 96, 16, {}),
    "vit_small_patch14_dinov2": (518, 448, 14, {"depth": 1, "embed_dim": 96, "num_heads": 2}),
    "vit_small_patch14_reg4_dinov2": (518, 224, 14, {"depth": 1, "embed_dim": 96, "num_heads": 2}),
    "vit_small_patch16_dinov3": (256, 448, 16, {"depth": 1, "embed_dim": 96, "num_heads": 2}),
    "eva02_tiny_patch14_224": (224, 448, 14, {"depth": 2, "embed_dim": 96, "num_heads": 2}),
    "vit_base_patch16_siglip_224": (224, 448, 16, {"depth": 1, "embed_dim": 96, "num_heads": 2}),
    "beit_base_patch16_224": (224, 448, 16, {"depth": 1, "embed_dim": 96, "num_heads": 2}),
}


def small(name: str, size: int | None = None) -> Backbone:
    torch.manual_seed(0)
    default, _, _, options = SMALL[name]
    return build_backbone(name, size or default, grad_checkpointing=False, options=dict(options))


def images(size: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", SMALL)
def test_shape_at_two_sizes(name: str) -> None:
    default, other, stride, _ = SMALL[name]
    for size in (default, other):
        backbone = small(name, size).eval()
        with torch.no_grad():
            x = backbone(images(size, 2))
        assert x.shape == (2, backbone.width, size // stride, size // stride)
        assert (backbone.stride, backbone.size, backbone.grid) == (stride, size, size // stride)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns_and_evaluation_is_repeatable(name: str) -> None:
    size = min(SMALL[name][:2])
    backbone = small(name, size)
    # A plain sum would cancel behind a normalisation layer.
    x = backbone(images(size, 2))
    (x * torch.linspace(0, 1, x.numel()).view_as(x)).sum().backward()
    without = [key for key, parameter in backbone.named_parameters() if parameter.grad is None]
    assert without == []  # DistributedDataParallel would wait for them
    backbone.eval()
    with torch.no_grad():
        assert torch.equal(backbone(images(size)), backbone(images(size)))


@pytest.mark.parametrize("name", SMALL)
def test_keys_are_those_of_timm_without_its_classifier(name: str) -> None:
    whole = timm.create_model(name, **SMALL[name][3])
    classifier = whole.pretrained_cfg["classifier"]
    ours = {key: tuple(value.shape) for key, value in small(name).model.state_dict().items()}
    expected = {
        key: tuple(value.shape)
        for key, value in whole.state_dict().items()
        if not key.startswith((f"{classifier}.", "attn_pool."))
    }
    if "norm.weight" in ours:  # timm moves the last norm of some models behind the pooling, under another name
        expected = {re.sub(r"^fc_norm\.", "norm.", key): shape for key, shape in expected.items()}
    assert ours == expected


@pytest.mark.parametrize("name", SMALL)
def test_rows_run_down_and_columns_run_right(name: str) -> None:
    """Noise in one patch of the picture changes the cell above it more than its mirror images."""
    default, _, stride, _ = SMALL[name]
    backbone = small(name).eval()
    picture = images(default)
    moved = picture.clone()
    row, column = 1, backbone.grid - 2
    rows, columns = (slice(at * stride, (at + 1) * stride) for at in (row, column))
    moved[..., rows, columns] += 3 * images(default)[..., columns, rows]
    with torch.no_grad():
        change = (backbone(moved) - backbone(picture)).norm(dim=1)[0]
    assert change[row, column] > 1.5 * change[column, row]
    assert change[row, column] > 1.5 * change[row, row]
    assert change[row, column] > 1.5 * change[column, column]


def test_vit_map_is_the_final_norm_without_prefix_tokens_row_by_row() -> None:
    backbone = small("vit_small_patch14_reg4_dinov2", 224).eval()
    with torch.no_grad():
        tokens = backbone.model.forward_features(images(224))[0]  # type: ignore[operator]
        x = backbone(images(224))[0]
    assert len(tokens) == 1 + 4 + 16 * 16
    for row, column in [(0, 0), (0, 15), (3, 7), (15, 0)]:
        assert torch.equal(x[:, row, column], tokens[1 + 4 + 16 * row + column])


def test_cnn_map_is_timms() -> None:
    backbone = small("test_resnet").eval()
    with torch.no_grad():
        assert torch.equal(backbone(images(160)), backbone.model.forward_features(images(160)))  # type: ignore[operator]


def test_card_and_norms() -> None:
    assert small("vit_tiny_patch16_224").mean == (0.5, 0.5, 0.5)
    assert small("tresnet_m").std == (1.0, 1.0, 1.0)
    assert small("test_resnet").norm_kind == "batch"
    assert small("mobilenetv2_035").norm_kind == "batch"
    assert small("test_vit").norm_kind == small("test_convnext").norm_kind == "layer"
    tagged = build_backbone("vit_tiny_patch16_224.augreg_in21k", 32, grad_checkpointing=False, options={})
    assert tagged.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "vit_small_patch16_dinov3"])
def test_grad_checkpointing_changes_neither_gradients_nor_statistics(name: str) -> None:
    size = SMALL[name][1]
    gradients, states, calls = [], [], []
    for on in (False, True):
        torch.manual_seed(0)
        backbone = build_backbone(name, size, grad_checkpointing=on, options=SMALL[name][3])
        calls.append(0)
        for module in backbone.modules():
            module.register_forward_hook(lambda *_: calls.append(calls.pop() + 1))
        for step in range(2):
            backbone(images(size, 2 + step)).square().sum().backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
        states.append(list(backbone.state_dict().values()))
    assert calls[1] > 1.5 * calls[0]  # most layers did run twice
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(states[1], states[0])


@pytest.mark.parametrize(
    ("name", "size", "options", "message"),
    [
        ("resnet11", 224, {}, r"^model\.backbone: timm has no model 'resnet11'; did you mean .*resnet1"),
        ("zzzzzzzz", 224, {}, r"^model\.backbone: timm has no model 'zzzzzzzz'"),
        ("resnet18.nope", 224, {}, r"^model\.backbone: resnet18 has no weights 'nope'; known: .*tv_in1k"),
        ("crossvit_9_240", 240, {}, r"^model\.backbone: crossvit_9_240 cannot be built"),
        ("efficientvim_m1", 224, {}, r"^model\.backbone: efficientvim_m1 gives several outputs"),
        ("test_resnet", 224, {"depht": 3}, r"^model\.backbone_options: test_resnet .*depht"),
        ("test_resnet", 224, {"pretrained": True}, r"^model\.backbone_options: 'pretrained'"),
        ("test_resnet", 224, {"checkpoint_path": "x"}, r"^model\.backbone_options: 'checkpoint_path'"),
        ("test_maxvit", 100, {}, r"^model\.(size|backbone): test_maxvit cannot"),
    ],
)
def test_refused_in_one_line(name: str, size: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(name, size, grad_checkpointing=False, options=options)
    assert "\n" not in str(caught.value)


FULL = {
    "resnet101": (2048, 32),
    "tresnet_m": (2048, 32),
    "mobilenetv2_100": (1280, 32),
    "swin_tiny_patch4_window7_224": (768, 32),
    "convnext_tiny": (768, 32),
    "vit_base_patch16_224": (768, 16),
    "vit_large_patch16_224": (1024, 16),
    "eva02_base_patch14_448": (768, 14),
    "vit_base_patch16_dinov3": (768, 16),
    "vit_small_patch14_dinov2": (384, 14),
    "vit_base_patch16_siglip_512": (768, 16),
    "vit_so400m_patch14_siglip_378": (1152, 14),
}


OFTEN = ("resnet101", "tresnet_m", "swin_tiny_patch4_window7_224", "vit_base_patch16_dinov3")
SOME = [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in FULL]


@pytest.mark.parametrize("name", SOME)
def test_full_models_at_448(name: str) -> None:
    width, stride = FULL[name]
    with torch.device("meta"):
        backbone = build_backbone(name, 448, grad_checkpointing=False, options={}).eval()
        x = backbone(torch.empty(2, 3, 448, 448))
    assert x.shape == (2, width, 448 // stride, 448 // stride)
