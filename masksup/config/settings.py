"""Every setting with its default, what it takes, what it means and an example, read from the schema."""

from collections.abc import Iterator
from typing import Any

from masksup.config.component import Component
from masksup.config.json_schema import Schema, run_schema
from masksup.config.load import dump
from masksup.config.messages import items, schema_keys
from masksup.config.on_resume import find_field, on_resume
from masksup.config.registry import Registry
from masksup.config.schema import Config, HeadSpec, LossSpec, MethodSpec
from masksup.config.yaml_text import yaml_inline
from masksup.errors import UserError, nearest

# Where neither the choices nor the default say what a value looks like.
EXAMPLES = {
    "checkpoint.snapshot_seconds": "30",
    "seed": "1", "data.train": "data/voc2007/trainval", "data.eval": "data/voc2007/test",
    "data.test": "data/voc2007/test", "data.folds": "5", "data.fold": "1", "data.workers": "8",
    "data.loader": "threads",
    "data.broken_budget": "0.001", "augment.size": "160", "augment.color_jitter": "[0.4,0.4,0.4,0.1]",
    "augment.scale": "[0.08,1]", "augment.ratio": "[0.8,1.25]", "augment.longer_side": "[0.5,1]",
    "augment.fill": "[0,0,0]", "augment.randaugment": "[2,9]", "augment.cutout": "0.5", "model.lora.rank": "8",
    "model.lora.layers": "[qkv,proj]", "model.backbone": "resnet50.tv_in1k", "model.weights": "timm",
    "model.size": "448", "model.features": "features", "model.mean": "[0,0,0]", "model.std": "[1,1,1]",
    "model.backbone_options": "{drop_path_rate: 0.1}", "model.last_stage_stride": "1", "model.octaves": "2",
    "optim.l2": "10",
    "optim.betas": "[0.9,0.95]", "optim.head_factor": "10", "optim.backbone_factor": "0.1", "optim.clip": "1",
    "optim.bias_factor": "2", "optim.layer_decay": "0.75", "schedule.warmup_epochs": "1",
    "schedule.milestones": "[6,8]", "schedule.final": "0.01", "stop.patience_epochs": "5", "batch.micro": "auto",
    "precision.threads": "8", "parallel.zero_options": "{overlap_comm: false}", "ema.decay": "0.9997",
    "eval.threshold": "0.6", "eval.masked": "[low,high]", "eval.size_shares": "[0.01,0.1]", "eval.bootstrap": "0",
    "checkpoint.every_steps": "500", "checkpoint.keep": "3", "log.images": "0", "log.every_steps": "100",
}  # fmt: skip
_PARTS: dict[str, type[Component]] = {"model.head": HeadSpec, "loss": LossSpec, "method": MethodSpec}
_MINIMAL = {"data": {"train": ""}, "model": {"backbone": ""}}
_REQUIRED = ("data.train", "model.backbone")


def differing(config: Config) -> dict[str, Any]:
    """The settings that differ from their defaults, and the options of a part that was chosen: value by dotted key."""
    defaults = dict(items(dump(Config.model_validate(_MINIMAL))))
    return {key: value for key, value in items(dump(config)) if key not in defaults or value != defaults[key]}


def find_settings(section: str | None = None) -> list[dict[str, Any]]:
    """Rows of all settings, or of those in a section or of one key. UserError with the nearest for an unknown one."""
    rows = list(_rows())
    if section is None:
        return rows
    found = [row for row in rows if row["setting"] == section or row["setting"].startswith(f"{section}.")]
    if not found:
        known = [*Config.model_fields, "model.head", "model.lora", *(row["setting"] for row in rows)]
        raise UserError(f"settings: unknown section or key '{section}'; {_hint(section, known)}")
    return found


def _hint(section: str, known: list[str]) -> str:
    ends = sorted({key for key in known if key.rpartition(".")[2] == section})
    return f"did you mean {' or '.join(ends)}?" if ends else nearest(section, Config.model_fields)


def _rows() -> Iterator[dict[str, Any]]:
    schema, defaults = run_schema(), dump(Config.model_validate(_MINIMAL))
    for key in schema_keys():
        section, field = find_field(key)
        kind, default = _at(schema, key), _value(defaults, key)
        if key.endswith(".name") and issubclass(section, Component):
            yield from _of_part(key.removesuffix(".name"), default)
            continue
        meaning = " ".join((field.description or "").split()) if field else ""
        shown = None if key in _REQUIRED else yaml_inline(default)
        yield _row(key, "", shown, takes(kind), meaning, EXAMPLES.get(key) or example(kind, default))


def _of_part(section: str, default: str) -> Iterator[dict[str, Any]]:
    """The name of a part, and the options of each that can be chosen."""
    registry: Registry = _PARTS[section].registry
    others = [name for name in registry.entries if name != default]
    yield _row(f"{section}.name", "", default, " | ".join(registry.entries), f"Which {registry.kind}.", others[0])
    for name in registry.entries:
        for option, field in registry.options(name).model_fields.items():
            kind = registry.options(name).model_json_schema()["properties"][option]
            value = yaml_inline(field.default)
            yield _row(f"{section}.{option}", name, value, takes(kind), registry.meaning(name, option), value)


def _row(key: str, of: str, default: str | None, kind: str, meaning: str, value: str) -> dict[str, Any]:
    return {
        "setting": key, "of": of, "default": default, "takes": kind, "meaning": meaning,
        "example": f"{key}={value}", "on resume": on_resume(key).value,
    }  # fmt: skip


def takes(kind: Schema) -> str:
    """What a value is, in words: "auto | number"."""
    if "anyOf" in kind:
        return " | ".join(dict.fromkeys(takes(one) for one in kind["anyOf"]))
    if "enum" in kind:
        return " | ".join(map(str, kind["enum"]))
    if "const" in kind:
        return str(kind["const"])
    words = {
        "integer": "whole number", "number": "number", "boolean": "true | false", "string": "text", "null": "null",
        "object": "mapping",
    }  # fmt: skip
    if kind.get("type") == "array":
        parts = kind.get("prefixItems", [kind.get("items", {})])
        return f"[{', '.join(takes(part) for part in parts)}{'' if 'prefixItems' in kind else ', ...'}]"
    return words.get(str(kind.get("type")), "any value")


def example(kind: Schema, default: Any) -> str:
    """Another value than the default, where the kind of value says one: the next choice, the half of a number."""
    if isinstance(default, bool):
        return yaml_inline(not default)
    if isinstance(default, int | float):
        half = default / 2
        return yaml_inline(int(half) if kind.get("type") == "integer" else half)
    choices = kind.get("enum") or [one["const"] for one in kind.get("anyOf", ()) if "const" in one] or [default]
    return yaml_inline(next((choice for choice in choices if choice != default), default))


def _at(schema: Schema, key: str) -> Schema:
    node: Schema = schema
    for part in key.split("."):
        node = node["properties"][part]
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    return node


def _value(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
