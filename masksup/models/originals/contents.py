"""Reading a file of the originals: which kind, which backbone, what is refused."""

import re
from pathlib import Path
from typing import Any

from masksup.errors import UserError
from masksup.models.originals.heads import ASSUMED_448, csra_heads, mcar_head, puzzle_head, tresnet_head
from masksup.models.originals.kinds import TITLES, Kind, recognise
from masksup.models.originals.original import Original
from masksup.models.originals.trunks import split
from masksup.models.weight_files import Tensors, read_file

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


def read_original(path: Path, *, assume_layout: bool = False) -> Original:
    """Recognise the file at `path` and sort its tensors.

    Raises UserError, one line, for a file that is none of the known kinds or not a multi-label classifier, one that
    leaves its meaning open (unless `assume_layout`), and one with tensors too few, too many or of a wrong shape.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a checkpoint of one of the original projects")
    state = read_file(path)
    kind = recognise(state)
    if kind is None:
        first = ", ".join(list(state)[:3])
        raise UserError(f"{path}: found none of the known layouts (first tensors: {first}); expected {_importable()}")
    _refuse_other_networks(kind, state, path)
    if kind == "csra_vit_448" and not assume_layout:
        raise UserError(
            f"{path}: {TITLES[kind]}: the forward it was trained with is not known; --assume-layout imports it as: "
            f"{'; '.join(ASSUMED_448)}"
        )
    parts = split(kind, state, str(path))
    found = Original(kind, path, "", parts.trunk, parts.names, parts.dropped, parts.changed)
    found.backbone = _backbone(found)
    if kind.startswith("csra"):
        csra_heads(found, parts.head)
    elif kind in ("mcar_resnet", "mcar_mobilenetv2"):
        mcar_head(found, parts.head)
    elif kind == "tresnet":
        tresnet_head(found, parts.head)
        if found.classes == 1000:
            _refuse_other_networks("imagenet", state, path)
    else:
        puzzle_head(found, parts.head)
    return found


def _importable() -> str:
    kinds: tuple[Kind, ...] = (
        "csra_resnet", "csra_vit", "csra_vit_448", "csra_paddle", "tresnet", "mcar_resnet", "mcar_mobilenetv2",
        "puzzle", "oass",
    )  # fmt: skip
    return "; ".join(TITLES[kind] for kind in kinds)


def _refuse_other_networks(kind: Kind, state: Tensors, path: Path) -> None:
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
    side = 0 if positions is None or positions.ndim != 3 else round(max(positions.shape[1] - 1, 0) ** 0.5)
    if positions is None or side == 0 or side**2 + 1 != positions.shape[1]:
        raise UserError(f"{found.path}: found no pos_embed of a square image and a class token, expected [1,1+n*n,D]")
    found.size, width = 16 * side, positions.shape[2]
    name = _VITS.get((width, depth))
    if name is None:
        raise UserError(f"{found.path}: ViT of width {width} with {depth} blocks, expected {_known(_VITS)}")
    return name


def _blocks(trunk: Tensors, prefix: str) -> tuple[int, ...]:
    """Number of blocks of each of the four stages."""
    pattern = re.compile(re.escape(prefix) + r"([1-4])\.(\d+)\.")
    found = [(int(match[1]), int(match[2])) for match in map(pattern.match, trunk) if match]
    return tuple(1 + max((block for stage, block in found if stage == s), default=-1) for s in (1, 2, 3, 4))


def _known(table: dict[Any, str]) -> str:
    return ", ".join(table.values())
