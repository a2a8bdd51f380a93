"""Blur pooling by slices is timm's, and what is built holds no other."""

import pytest
import timm
import torch
from timm.layers.blur_pool import BlurPool2d
from torch import nn
from torch.nn import functional as F

from masksup.errors import UserError
from masksup.models.backbones import build_backbone
from masksup.models.reflection import reflect, reflect_by_slices


@pytest.mark.parametrize("filt_size", [3, 5])
@pytest.mark.parametrize("channels", [None, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_blur_pool_is_bit_equal_and_so_are_its_gradients(
    filt_size: int, channels: int | None, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    theirs, ours = (nn.Sequential(BlurPool2d(channels, filt_size)) for _ in range(2))
    reflect_by_slices(ours)
    assert type(ours[0]) is not BlurPool2d
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(2, 4, 9, 8).to(memory_format=layout)
    outputs, gradients = [], []
    for layer in (theirs, ours):
        mine = x.clone(memory_format=torch.preserve_format).requires_grad_()
        outputs.append(layer(mine))
        outputs[-1].backward(torch.arange(outputs[-1].numel()).reshape(outputs[-1].shape).float())
        gradients.append(mine.grad)
    assert torch.equal(*outputs)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [1, 2])
def test_reflect_is_torchs_padding_with_its_gradient(width: int) -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    padded = reflect(reflect(x, width, 3), width, 2)
    assert torch.equal(padded, F.pad(x, (width,) * 4, mode="reflect"))
    assert torch.autograd.gradcheck(lambda x: reflect(x, width, 2), x.requires_grad_())


def test_a_backbone_is_built_without_reflection_padding_and_gives_timms_map() -> None:
    torch.manual_seed(0)
    ours = build_backbone("resnetblur18", 64, grad_checkpointing=False, options={}).eval()
    theirs = timm.create_model("resnetblur18", num_classes=0, global_pool="").eval()
    theirs.load_state_dict(ours.model.state_dict())
    assert not any(type(layer) is BlurPool2d for layer in ours.modules())
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(images), theirs(images))


def test_a_map_too_small_to_be_reflected_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.size: resnetblur18 cannot take 4 pixels"):
        build_backbone("resnetblur18", 4, grad_checkpointing=False, options={})
