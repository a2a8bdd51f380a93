"""What the originals call the tensors of a trunk -> timm's names. One map for `model.weights` and for imports."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from masksup.errors import UserError
from masksup.models.originals.kinds import Kind
from masksup.models.weight_files import Tensors

ABN_EPS = 1e-5  # InPlace-ABN scales by |weight| + eps, a plain batch norm by its weight

# Tensors that belong to a head: kept under their own names.
_HEADS: dict[Kind, str] = {
    "csra_resnet": r"classifier\.",
    "csra_paddle": r"classifier\.",
    "csra_vit": r"classifier\.",
    "csra_vit_448": r"head\d*\.",
    "tresnet": r"head\.",
    "mcar_resnet": r"convclass\.",
    "mcar_mobilenetv2": r"convclass\.",
    "mobilenetv2": r"classifier\.",
    "puzzle": r"classifier\.",
    "oass": r"classifier\.|BN\.|stage6\.",
    "affinitynet": r"fc_edge|path_indices",
    "deeplab": r"classifier\.|aspp\.|decoder\.",
}

# Tensors without a place here, and why.
_DROPPED: dict[Kind, tuple[str, str]] = {
    "csra_paddle": (r"backbone\.fc\.", "ImageNet classifier"),
    "tresnet": (r".*\.filt$", "constant blur kernel"),
}

_PUZZLE: tuple[Kind, ...] = ("puzzle", "oass", "affinitynet", "deeplab")


@dataclass(frozen=True)
class Split:
    """The tensors of a file. `trunk`: under timm's names, converted. `names`: timm's name -> the file's.
    `head`: under the file's names. `dropped`: the file's name -> why. `changed`: conversions, for people."""

    trunk: Tensors
    names: dict[str, str]
    head: Tensors
    dropped: dict[str, str]
    changed: tuple[str, ...]


def split(kind: Kind, state: Tensors, origin: str) -> Split:
    """Sort the tensors of a file of `kind`; every key goes to exactly one place, unknown ones to the trunk.

    Raises UserError if two tensors claim one place, or copies of one tensor differ. `origin` names the file.
    """
    rename, trunk, names, head, dropped = _rename(kind), Tensors(), dict[str, str](), Tensors(), dict[str, str]()
    pattern, why = _DROPPED.get(kind, (r"(?!)", ""))
    for key, value in state.items():
        if re.match(_HEADS.get(kind, r"(?!)"), key):
            head[key] = value
        elif re.match(pattern, key):
            dropped[key] = why
        elif kind in _PUZZLE and re.match(r"stage[1-5]\.", key):
            _check_copy(key, value, state, origin)
            dropped[key] = "copy of the trunk"
        else:
            name = rename(key)
            if name in names:
                raise UserError(f"{origin}: found both {names[name]} and {key}, expected one of them ({name})")
            trunk[name], names[name] = value, key
    if kind in ("puzzle", "oass"):
        _require_copies(trunk, state, origin)
    return Split(trunk, names, head, dropped, _convert_abn(trunk) if kind == "tresnet" else ())


def _rename(kind: Kind) -> Callable[[str], str]:
    renames: dict[Kind, Callable[[str], str]] = {
        "csra_paddle": _from_paddle,
        "tresnet": _from_tresnet,
        "mcar_resnet": _from_mcar_resnet,
        "mcar_mobilenetv2": _from_mcar_mobilenetv2,
        "mobilenetv2": _from_mobilenetv2,
    }
    if kind in _PUZZLE:
        return lambda key: key.removeprefix("model.")
    return renames.get(kind, lambda key: key)


def _from_paddle(key: str) -> str:
    name = key.removeprefix("backbone.")
    return re.sub(r"\._mean$", ".running_mean", re.sub(r"\._variance$", ".running_var", name))


def _from_mcar_resnet(key: str) -> str:
    """nn.Sequential numbers: 0 conv1, 1 bn1, 2 ReLU, 3 max-pool, 4 to 7 the stages."""
    name = re.sub(r"^features\.([4-7])\.", lambda found: f"layer{int(found[1]) - 3}.", key)
    return re.sub(r"^features\.1\.", "bn1.", re.sub(r"^features\.0\.", "conv1.", name))


def _from_tresnet(key: str) -> str:
    """A convolution and its InPlace-ABN are 0 and 1 of a pair, one level deeper where a blur follows."""
    pairs = {"0": "conv", "1": "bn"}
    for pattern in (r"(\.downsample\.1)\.([01])\.", r"(\.conv\d)\.0\.([01])\.", r"(\.conv\d)\.([01])\."):
        name, count = re.subn(pattern, lambda found: f"{found[1]}.{pairs[found[2]]}.", key, count=1)
        if count:
            return name
    return key


_INVERTED = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"}
_FIRST = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}  # no expansion


def _from_mcar_mobilenetv2(key: str) -> str:
    """d-li14's `features` and `conv`, as 0 and 1 of a list."""
    if key.startswith("features.1."):
        return _from_mobilenetv2("conv." + key.removeprefix("features.1."))
    return _from_mobilenetv2("features." + key.removeprefix("features.0."))


def _from_mobilenetv2(key: str) -> str:
    """d-li14's flat list of blocks -> timm's stages of 1, 2, 3, 4, 3, 3 and 1 blocks."""
    for old, new in (("features.0.0.", "conv_stem."), ("features.0.1.", "bn1."), ("conv.0.", "conv_head."),
                     ("conv.1.", "bn2.")):  # fmt: skip
        if key.startswith(old):
            return new + key.removeprefix(old)
    found = re.match(r"features\.(\d+)\.conv\.(\d)\.(.+)", key)
    parts = _FIRST if found and found[1] == "1" else _INVERTED
    if found is None or found[2] not in parts or not 1 <= int(found[1]) <= 17:
        return key
    stage, block = [(s, b) for s, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)) for b in range(blocks)][int(found[1]) - 1]
    return f"blocks.{stage}.{block}.{parts[found[2]]}.{found[3]}"


def _twin(copy: str) -> str:
    """stage1 holds the stem as a list, stage2 to stage5 the four stages of the ResNet."""
    name = re.sub(r"^stage1\.1\.", "model.bn1.", re.sub(r"^stage1\.0\.", "model.conv1.", copy))
    return re.sub(r"^stage([2-5])\.0\.", lambda found: f"model.layer{int(found[1]) - 1}.", name)


def _check_copy(key: str, value: Tensor, state: Tensors, origin: str) -> None:
    twin = state.get(_twin(key))
    if twin is None:
        raise UserError(f"{origin}: found {key} without {_twin(key)}, expected both, as copies")
    if twin.shape != value.shape or twin.dtype != value.dtype or not torch.equal(twin, value):
        raise UserError(f"{origin}: {key} differs from {_twin(key)}, expected equal copies")


def _require_copies(trunk: Tensors, state: Tensors, origin: str) -> None:
    there = {_twin(key) for key in state if key.startswith("stage")}
    alone = [key for key in trunk if f"model.{key}" in state and f"model.{key}" not in there]
    missing = [key for key in alone if not key.endswith(".num_batches_tracked")]
    if missing:
        raise UserError(f"{origin}: found model.{missing[0]} without its copy below stage1 to stage5, expected both")


def _convert_abn(trunk: Tensors) -> tuple[str, ...]:
    scales = [key for key in trunk if key.endswith(".bn.weight") and trunk[key].is_floating_point()]
    for key in scales:
        trunk[key] = trunk[key].float().abs() + ABN_EPS
    return (f"{len(scales)} InPlace-ABN weights w became |w| + {ABN_EPS:g}",)
