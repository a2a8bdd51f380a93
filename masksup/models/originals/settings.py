"""What a file leaves open: from options, or from a preset named after the released file or training folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from masksup.base.words import counted
from masksup.errors import UserError, nearest
from masksup.models.originals.classes import ORDERS, classes_named
from masksup.models.originals.heads import IMAGENET
from masksup.models.originals.kinds import TITLES, Kind
from masksup.models.originals.original import Original

# Mean and standard deviation of pixels in [0, 1], by name.
NORMALIZATIONS: dict[str, dict[str, list[float]]] = {
    "none": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
    "half": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "imagenet": IMAGENET,
}

# Each setting and what it is, for the message that asks for it.
SETTINGS = {
    "lam": "weight of the attention, the paper's lambda",
    "pool": "avg, max or gwp",
    "top": "regions an image",
    "threshold": "where attention is cut",
    "size": "side of the input, px",
    "normalization": "none, half or imagenet, or --mean and --std",
    "classes": "voc, coco, coco-alphabetical, wider, a file or A,B,C",
}


LEAST_SIZE = 32  # px: the convolutional networks halve their input five times


@dataclass(frozen=True)
class Preset:
    """The settings that a released file was trained with. `kinds`, `counts` (classes, heads) and `backbone` say which
    files it is for; `counts` None and `backbone` None: any."""

    kinds: tuple[Kind, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: tuple[int, int] | None = None
    backbone: str | None = None


_CSRA: tuple[Kind, ...] = ("csra_resnet", "csra_paddle")
_VOC: dict[str, Any] = {"lam": 0.1, "size": 448, "normalization": "none", "classes": "voc"}
_COCO: dict[str, Any] = {"size": 448, "normalization": "none", "classes": "coco"}
_WIDER = Preset(("csra_vit",), {"lam": 0.3, "size": 224, "normalization": "half", "classes": "wider"}, (14, 1))

# checkpoints.md 1, 3, 6 and 7, methods.md 2.3.
PRESETS: dict[str, Preset] = {
    "csra_voc07_resnet101": Preset(_CSRA, _VOC, (20, 1), "resnet101"),
    "csra_coco_resnet101": Preset(_CSRA, {**_COCO, "lam": 0.5}, (80, 4), "resnet101"),
    "csra_coco_resnet101_cutmix": Preset(_CSRA, {**_COCO, "lam": 0.4}, (80, 6), "resnet101"),
    "csra_wider_vit": _WIDER,
    "csra_coco_vit_l16_448": Preset(("csra_vit_448",), {"lam": 1.0, "size": 448, "classes": "coco"}, (80, 8)),
    "csra_paddle_voc07": Preset(("csra_paddle",), _VOC, (20, 1), "resnet101"),
    "msl_c_voc": Preset(("csra_resnet",), _VOC, (20, 1), "resnet101"),
    "msl_c_coco": Preset(("csra_resnet",), {**_COCO, "lam": 0.4}, (80, 6), "resnet101"),
    "msl_v_voc": Preset(("csra_vit",), {**_VOC, "lam": 0.3, "size": 224}, (20, 1)),
    "msl_v_coco": Preset(("csra_vit",), {**_COCO, "lam": 1.0, "size": 224}, (80, 8)),
    "msl_v_wider": _WIDER,
    "puzzle_voc12": Preset(("puzzle",), {"size": 512, "classes": "voc"}, (20, 0)),
    "oass_voc12": Preset(("oass",), {"size": 512, "classes": "voc"}, (20, 0)),
    "msl_tresnet_voc": Preset(("tresnet",), {"size": 448, "normalization": "none", "classes": "voc"}, (20, 0)),
}

# How MCAR names its training folders: what its files leave open, and two things they tell.
_MCAR_FOLDER = re.compile(
    r"(voc2007|voc2012|coco2014)-(mobilenetv2|resnet50|resnet101)-(avg|max|gwp)-(\d+)-(\d+)-(0?\.\d+)"
)


def preset_named(name: str) -> Preset:
    """A known preset, or the settings in the name of an MCAR training folder. UserError for any other name."""
    if name in PRESETS:
        return PRESETS[name]
    found = _MCAR_FOLDER.fullmatch(name)
    if found is None:
        raise UserError(f"--preset: unknown '{name}'; {nearest(name, PRESETS)}, or an MCAR folder name such as "
                        "voc2007-resnet101-gwp-448-4-0.5")  # fmt: skip
    data, backbone, pool, size, top, threshold = found.groups()
    coco = data == "coco2014"
    return Preset(
        ("mcar_resnet", "mcar_mobilenetv2"),
        {"pool": pool, "size": int(size), "top": int(top), "threshold": float(threshold),
         "classes": "coco-alphabetical" if coco else "voc"},
        (80 if coco else 20, 0), "mobilenetv2_100" if backbone == "mobilenetv2" else backbone,
    )  # fmt: skip


def settle(found: Original, given: Mapping[str, Any], preset_name: str | None) -> dict[str, Any]:
    """A value for every setting that `found` leaves open: `given` ones (by name of SETTINGS) before the preset's.

    Raises UserError naming the options of those that are open still, a preset of other files, an option that the
    file has no use for, and a class list of another length.
    """
    for name in given:
        if name not in found.needs and not (name == "size" and found.size):
            takes = ", ".join(f"--{need}" for need in found.needs)
            raise UserError(f"--{name}: has no meaning for {found.path} ({TITLES[found.kind]}), which takes {takes}")
    settings = {**_of_preset(found, preset_name), **given}
    if found.size is not None:
        settings.setdefault("size", found.size)
    missing = [f"--{name} ({SETTINGS[name]})" for name in found.needs if name not in settings]
    if missing:
        presets = [name for name, preset in PRESETS.items() if _fits(preset, found)]
        if found.method["name"] == "mcar":
            presets = ["the name of its training folder, such as voc2007-resnet101-gwp-448-4-0.5"]
        hint = f", or --preset ({' | '.join(presets)})" if presets and preset_name is None else ""
        raise UserError(f"{found.path}: {found.summary}: the file does not tell {', '.join(missing)}; give it{hint}")
    if found.size is None and settings["size"] < LEAST_SIZE:
        raise UserError(f"--size: found {settings['size']}, expected {LEAST_SIZE} or more for {found.backbone}")
    settings["classes"] = _classes(found, settings["classes"])
    return settings


def _of_preset(found: Original, name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    preset = preset_named(name)
    if not _fits(preset, found):
        wanted = " or ".join(TITLES[kind] for kind in preset.kinds) + (
            f", {preset.backbone}" if preset.backbone else ""
        )
        if preset.counts is not None:
            wanted += f", {counted(preset.counts[0], 'class')}" + (
                f", {counted(preset.counts[1], 'head')}" if preset.counts[1] else ""
            )
        wanted += f", {preset.settings['size']} px" if found.size else ""
        raise UserError(f"--preset {name}: {found.path} is {found.summary}; expected {wanted}")
    return {key: value for key, value in preset.settings.items() if key in found.needs or key == "size"}


def _fits(preset: Preset, found: Original) -> bool:
    return (
        found.kind in preset.kinds
        and preset.counts in (None, (found.classes, found.head.get("heads", 0)))
        and preset.backbone in (None, found.backbone)
        and (found.size is None or preset.settings.get("size") == found.size)
    )


def _classes(found: Original, text: str) -> tuple[str, ...]:
    classes = classes_named(text)
    if len(classes) != found.classes:
        fitting = [name for name, order in ORDERS.items() if len(order) == found.classes]
        hint = f" (such as {' or '.join(fitting)})" if fitting else ""
        raise UserError(
            f"--classes {text}: found {counted(len(classes), 'class')}, {found.path} has {found.classes}, "
            f"expected as many{hint}"
        )
    return classes


def config_tree(found: Original, settings: Mapping[str, Any], absent_data: str) -> dict[str, Any]:
    """The settings of the run; `absent_data` stands where a run names what it was trained on.

    fp32 everywhere, as the originals score; small batches, which a CPU can take.
    """
    normalization = settings.get("normalization")
    model = {
        **found.model,
        **(NORMALIZATIONS[normalization] if isinstance(normalization, str) else normalization or {}),
    }
    head = {**found.head, **{key: settings[key] for key in ("lam", "pool") if key in settings}}
    method = {**found.method, **{key: settings[key] for key in ("top", "threshold") if key in settings}}
    return {
        "data": {"train": absent_data},
        "model": {"backbone": found.backbone, "size": settings["size"], "head": head, **model},
        "augment": found.augment,
        "method": method,
        "precision": {"dtype": "fp32"},
        "eval": {"batch": 8},
    }
