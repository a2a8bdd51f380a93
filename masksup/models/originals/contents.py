"""What a file of the originals says of itself: network, head, classes, and which settings it leaves open."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masksup.errors import UserError
from masksup.models.heads.csra import TEMPERATURES
from masksup.models.originals.kinds import TITLES, Kind, recognise
from masksup.models.originals.trunks import State, split
from masksup.models.weight_files import read_file

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34", ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101", ((3, 8, 36, 3), True): "resnet152",
}  # fmt: skip
_VITS = {
    (192, 12): "vit_tiny_patch16_224", (384, 12): "vit_small_patch16_224", (768, 12): "vit_base_patch16_224",
    (1024, 24): "vit_large_patch16_224",
}  # fmt: skip
_TRESNETS: dict[tuple[int, tuple[int, ...]], str] = {
    (64, (3, 4, 11, 3)): "tresnet_m", (76, (4, 5, 18, 3)): "tresnet_l", (83, (4, 5, 24, 3)): "tresnet_xl",
}  # fmt: skip

ASSUMED_448 = (
    "head1 to head8 are the temperatures 1 to 7 and the maximum, in that order",
    "the bias of each is added before the division by the norm, so it takes part in the attention",
    "head takes no part",
    "the heads see the patch tokens after the final norm",
)


@dataclass
class Original:
    """A file of an original project, under this project's names.

    backbone: timm's name.  trunk: its tensors.  names: their names in the file.  heads: tensors of the head.
    size: side of the input in pixels where the file tells it.  head, method: settings that follow from the kind.
    needs: names of the settings that the file leaves open.  dropped: key -> why.  assumed: what is not known.
    """

    kind: Kind
    path: Path
    backbone: str
    trunk: State
    names: dict[str, str]
    dropped: dict[str, str]
    changed: tuple[str, ...]
    size: int | None = None
    classes: int = 0
    head: dict[str, Any] = field(default_factory=dict)
    heads: State = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=lambda: {"name": "baseline"})
    model: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """For people: what the file is, as far as it tells."""
        parts = [TITLES[self.kind], self.backbone, f"{self.classes} classes"]
        if "heads" in self.head:
            parts.append(f"{self.head['heads']} heads" if self.head["heads"] > 1 else "1 head")
        if self.size is not None:
            parts.append(f"{self.size} px")
        return ", ".join(parts)


def read_original(path: Path, *, assume_layout: bool = False) -> Original:
    """Recognise the file at `path` and sort its tensors.

    Raises UserError, one line, for a file that is none of the known kinds or not a multi-label classifier, one that
    leaves its meaning open (unless `assume_layout`), and one with tensors too few, too many or of a wrong shape.
    """
    state = read_file(path)
    kind = recognise(state)
    if kind is None:
        first = ", ".join(list(state)[:3])
        raise UserError(f"{path}: found none of the known layouts (first tensors: {first}); expected {_importable()}")
    _refuse_other_networks(kind, state, path)
    if kind == "csra_vit_448" and not assume_layout:
        raise UserError(
            f"{path}: {TITLES[kind]}: the forward it was trained with is not known; --assume-layout imports it as: "
            f"{'; '.join(ASSUMED_448)}. Its score on COCO val (86.5 or 86.9 mAP) is the test"
        )
    parts = split(kind, state, str(path))
    found = Original(kind, path, "", parts.trunk, parts.names, parts.dropped, parts.changed)
    found.backbone = _backbone(found)
    if kind.startswith("csra"):
        _csra(found, parts.head)
    elif kind in ("mcar_resnet", "mcar_mobilenetv2"):
        _mcar(found, parts.head)
    elif kind == "tresnet":
        _tresnet(found, parts.head)
    return found


def _importable() -> str:
    kinds: tuple[Kind, ...] = (
        "csra_resnet", "csra_vit", "csra_vit_448", "csra_paddle", "tresnet", "mcar_resnet", "mcar_mobilenetv2",
    )  # fmt: skip
    return "; ".join(TITLES[kind] for kind in kinds)


def _refuse_other_networks(kind: Kind, state: State, path: Path) -> None:
    trunk = "its trunk can be used as model.weights"
    if kind in ("affinitynet", "deeplab"):
        raise UserError(f"{path}: {TITLES[kind]}, which does not classify images, expected a classifier; {trunk}")
    if kind in ("imagenet", "mobilenetv2", "tresnet_timm"):
        raise UserError(f"{path}: {TITLES[kind]}, expected a multi-label classifier of the originals; {trunk}")
    if kind in ("puzzle", "oass") and any(key.startswith("model.conv1.0.") for key in state):
        raise UserError(f"{path}: {TITLES[kind]} on a ResNeSt, expected one on a ResNet")
    if kind == "tresnet":
        for prefix, name in (("head.decoder.", "an ML-Decoder"), ("head.fc.embedding_generator.", "a bottleneck")):
            if any(key.startswith(prefix) for key in state):
                raise UserError(f"{path}: TResNet with {name} head ({prefix}*), expected head.fc; {trunk}")


def _backbone(found: Original) -> str:
    """timm's name, from widths and numbers of blocks. Sets the size where the tensors tell it."""
    trunk = found.trunk
    if found.kind == "mcar_mobilenetv2":
        return "mobilenetv2_100"
    if found.kind in ("csra_vit", "csra_vit_448"):
        return _vit(found)
    if found.kind == "tresnet":
        stem = trunk.get("body.conv1.conv.weight")
        counts = _blocks(trunk, "body.layer")
        name = _TRESNETS.get((0 if stem is None or stem.ndim != 4 else len(stem), counts))
        if name is None:
            raise UserError(f"{found.path}: TResNet with stages of {counts} blocks, expected {_known(_TRESNETS)}")
        return name
    counts, bottleneck = _blocks(trunk, "layer"), "layer1.0.conv3.weight" in trunk
    name = _RESNETS.get((counts, bottleneck))
    if name is None:
        raise UserError(f"{found.path}: ResNet with stages of {counts} blocks, expected {_known(_RESNETS)}")
    return name


def _vit(found: Original) -> str:
    trunk = found.trunk
    depth = 1 + max((int(key.split(".")[1]) for key in trunk if re.match(r"blocks\.\d+\.", key)), default=-1)
    positions = trunk.get("pos_embed")
    side = 0 if positions is None or positions.ndim != 3 else round((positions.shape[1] - 1) ** 0.5)
    if positions is None or side**2 + 1 != positions.shape[1]:
        raise UserError(f"{found.path}: found no pos_embed of a square image and a class token, expected [1,1+n*n,D]")
    found.size, width = 16 * side, positions.shape[2]
    name = _VITS.get((width, depth))
    if name is None:
        raise UserError(f"{found.path}: ViT of width {width} with {depth} blocks, expected {_known(_VITS)}")
    return name


def _blocks(trunk: State, prefix: str) -> tuple[int, ...]:
    """Number of blocks of each of the four stages."""
    pattern = re.compile(re.escape(prefix) + r"([1-4])\.(\d+)\.")
    found = [(int(match[1]), int(match[2])) for match in map(pattern.match, trunk) if match]
    return tuple(1 + max((block for stage, block in found if stage == s), default=-1) for s in (1, 2, 3, 4))


def _known(table: dict[Any, str]) -> str:
    return ", ".join(table.values())


def _csra(found: Original, head: State) -> None:
    """K heads of weights [C,D,1,1], stored raw; head k has the k-th temperature of the list for K (sections 1 to 3)."""
    if found.kind == "csra_vit_448":
        numbers, weight, first = range(1, 9), "head{}.weight", "head1"
        for key in [key for key in head if re.match(r"head\.", key)]:
            found.dropped[key] = "takes no part, by assumption"
            del head[key]
        biases: list[Tensor] | None = _stack(found, head, "head{}.bias", numbers, 1)
        found.assumed = ASSUMED_448
    else:
        pattern = re.compile(r"classifier\.multi_head\.(\d+)\.head\.weight$")
        numbers = range(sum(1 for key in head if pattern.match(key)))
        weight, first, biases = "classifier.multi_head.{}.head.weight", "classifier.multi_head.0", None
        if len(numbers) not in TEMPERATURES:
            known = ", ".join(map(str, TEMPERATURES))
            raise UserError(f"{found.path}: found {len(numbers)} heads ({first}, ...), expected {known}")
    weights = _stack(found, head, weight, numbers, 2)
    _refuse_left_over(found, head)
    found.classes = len(weights[0])
    found.head = {"name": "csra", "heads": len(weights)}
    found.heads["weight"] = _stacked(weights, found, weight)
    if biases is not None:
        found.head["bias"] = True
        found.heads["bias"] = _stacked(biases, found, "head{}.bias")
    found.needs = ("lam", "normalization", "classes") + (() if found.size else ("size",))


def _mcar(found: Original, head: State) -> None:
    """One classifier with bias for both streams; it localises by the rule of the published code (section 5)."""
    _linear(found, head, "convclass", bias=True)
    found.method = {"name": "mcar", "compat": "original"}
    found.model = dict(IMAGENET)
    found.needs = ("pool", "top", "threshold", "size", "classes")


def _tresnet(found: Original, head: State) -> None:
    """Mean over positions, then a linear layer with bias; never a CSRA head (section 4)."""
    _linear(found, head, "head.fc", bias=True)
    if found.classes == 1000:
        _refuse_other_networks("imagenet", {}, found.path)
    found.head["pool"] = "avg"
    found.needs = ("size", "normalization", "classes")


def _linear(found: Original, head: State, name: str, *, bias: bool) -> None:
    weight = _take(found, head, f"{name}.weight", 2)
    found.heads["fc.weight"] = weight
    if bias:
        found.heads["fc.bias"] = _take(found, head, f"{name}.bias", 1)
    _refuse_left_over(found, head)
    found.classes = len(weight)
    found.head = {"name": "linear", "bias": bias}


def _take(found: Original, head: State, key: str, dimensions: int) -> Tensor:
    """The tensor `key`, removed from `head`; a 1x1 convolution loses its two sides."""
    if key not in head:
        raise UserError(f"{found.path}: {TITLES[found.kind]}: found no {key}, expected it")
    value = head.pop(key)
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    if value.ndim != dimensions or not value.is_floating_point() or 0 in value.shape:
        shape = "[classes,width] or [classes,width,1,1]" if dimensions == 2 else "[classes]"
        raise UserError(f"{found.path}: {key} has the shape {list(value.shape)}, expected {shape}")
    return value.float()


def _stack(found: Original, head: State, pattern: str, numbers: range, dimensions: int) -> list[Tensor]:
    return [_take(found, head, pattern.format(number), dimensions) for number in numbers]


def _stacked(values: list[Tensor], found: Original, pattern: str) -> Tensor:
    for number, value in enumerate(values):
        if value.shape != values[0].shape:
            shapes = f"{list(value.shape)} and {list(values[0].shape)}"
            raise UserError(f"{found.path}: {pattern} of different shapes ({shapes}; head {number}), expected one")
    return torch.stack(values)


def _refuse_left_over(found: Original, head: State) -> None:
    if head:
        name = TITLES[found.kind]
        raise UserError(
            f"{found.path}: {name}: {len(head)} unexpected, first {next(iter(head))}; expected no more keys"
        )
