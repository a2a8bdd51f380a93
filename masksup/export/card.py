"""The card of a trained run: what its exported file has to say."""

from importlib import metadata
from typing import Any

from masksup import __version__
from masksup.base.files import json_sha256
from masksup.config.load import dump
from masksup.data.reading import range_text
from masksup.decisions.decisions import Decisions
from masksup.export.check import Check
from masksup.inference.card import Card, Precision, Preprocessing
from masksup.saved.open import Trained


def preprocessing_of(trained: Trained) -> Preprocessing:
    """How `masksup predict` prepares an image for this run."""
    config, network = trained.config, trained.network
    augment = config.augment
    return Preprocessing(
        size=config.model.size, resize=augment.eval_resize, interpolation=augment.interpolation,
        crop_share=augment.crop_share, fill=augment.fill, exif=trained.reading.exif, max_pixels=config.data.max_pixels,
        mean=tuple(network.mean.flatten().tolist()), std=tuple(network.std.flatten().tolist()),
        pixel_range=range_text(trained.reading.pixel_range),
    )  # fmt: skip


def card_of(
    trained: Trained, decisions: Decisions, precision: Precision, check: Check, opset: int | None
) -> Card:  # fmt: skip
    """`opset`: of an ONNX file."""
    facts: dict[str, Any] = {
        "note": trained.note,
        "model": _model(trained),
        "checkpoint": {
            "name": trained.checkpoint, "sha256": trained.sha256, "weights": trained.weights, "step": trained.step,
            "epoch": trained.epoch,
        },
        "config_sha256": config_hash(trained),
        "protocol": _protocol(trained),
        "versions": _versions(opset),
        "check": check.facts(),
    }  # fmt: skip
    return Card(preprocessing_of(trained), decisions, precision, trained.config.eval.batch, facts)


def config_hash(trained: Trained) -> str:
    """sha256 of the resolved configuration, as JSON with sorted keys."""
    return json_sha256(dump(trained.config))


def _model(trained: Trained) -> dict[str, Any]:
    model = trained.config.model
    parts = {"head": model.head, "method": trained.config.method}
    return {
        "backbone": model.backbone,
        **{key: {"name": part.name, **part.options} for key, part in parts.items()},
        "parameters": sum(p.numel() for p in trained.network.parameters()),
    }


def _protocol(trained: Trained) -> dict[str, Any]:
    """The rules by which the run is scored."""
    rules, data = trained.config.eval, trained.config.data
    return {
        "ap_rule": rules.ap_rule, "compat": rules.compat, "resolution": trained.config.model.size,
        "trained_on": data.train, "scored_on": data.test or data.eval,
    }  # fmt: skip


def _versions(opset: int | None) -> dict[str, Any]:
    names = ("torch", "timm") if opset is None else ("torch", "timm", "onnx", "onnxscript", "onnxruntime")
    found: dict[str, Any] = {"masksup": __version__, **{name: metadata.version(name) for name in names}}
    return found if opset is None else found | {"opset": opset}
