"""Which project wrote a file, from the names of its tensors."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

Kind = Literal[
    "csra_resnet", "csra_vit", "csra_vit_448", "csra_paddle", "tresnet", "mcar_resnet", "mcar_mobilenetv2",
    "puzzle", "oass", "affinitynet", "deeplab", "mobilenetv2", "tresnet_timm", "imagenet",
]  # fmt: skip

TITLES: Mapping[Kind, str] = {
    "csra_resnet": "CSRA or MSL on a ResNet",
    "csra_vit": "CSRA or MSL on a ViT",
    "csra_vit_448": "CSRA's ViT for COCO at 448 px (head1 ... head8)",
    "csra_paddle": "CSRA-Paddle on a ResNet",
    "tresnet": "MSL or MIIL TResNet (InPlace-ABN)",
    "mcar_resnet": "MCAR on a ResNet",
    "mcar_mobilenetv2": "MCAR on MobileNetV2",
    "puzzle": "Puzzle-CAM classifier",
    "oass": "OASS classifier",
    "affinitynet": "AffinityNet of Puzzle-CAM",
    "deeplab": "DeepLabv3+ of Puzzle-CAM",
    "mobilenetv2": "MobileNetV2 of ImageNet (d-li14)",
    "tresnet_timm": "TResNet under timm's names",
    "imagenet": "ImageNet classifier",
}


def recognise(state: Mapping[str, Tensor]) -> Kind | None:
    """The first kind whose signs are there (unwrapped names, checkpoints.md 10); None: none of them."""

    def some(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in state)

    if some("convclass."):
        return "mcar_mobilenetv2" if some("features.0.0.") else "mcar_resnet"
    if some("model.conv1.") and some("stage1.0."):
        return _puzzle_family(state)
    if some("body.conv1.0."):
        return "tresnet"
    if some("body.conv1.conv."):
        return "tresnet_timm"
    if "head1.weight" in state and "head8.weight" in state:
        return "csra_vit_448"
    if some("classifier.multi_head."):
        if some("blocks."):
            return "csra_vit"
        return "csra_paddle" if some("backbone.") else "csra_resnet"
    if some("features.17.") and some("conv.0."):
        return "mobilenetv2"
    return "imagenet" if _is_imagenet(state) else None


def _puzzle_family(state: Mapping[str, Tensor]) -> Kind:
    if any(key.startswith("fc_edge") for key in state):
        return "affinitynet"
    if any(key.startswith(("aspp.", "decoder.")) for key in state):
        return "deeplab"
    return "oass" if any(key.startswith(("BN.", "stage6.")) for key in state) else "puzzle"


def _is_imagenet(state: Mapping[str, Tensor]) -> bool:
    """A classifier of 1000 classes on a trunk under timm's or torchvision's names."""
    names = ("fc.weight", "head.weight", "head.fc.weight", "classifier.weight")
    return any(name in state and state[name].ndim == 2 and len(state[name]) == 1000 for name in names)
