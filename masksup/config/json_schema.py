"""What a run file may hold, as JSON Schema: for editors, which complete and check keys while one types."""

import copy
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from masksup.config.component import Component
from masksup.config.schema import Config, HeadSpec, LossSpec, MethodSpec

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PARTS: tuple[type[Component], ...] = (HeadSpec, LossSpec, MethodSpec)


def run_schema() -> Schema:
    """A file of `masksup train`. Nothing is required in it: `extends` or the command line may say the rest."""
    schema = tidy(Config.model_json_schema(by_alias=True))
    for part in _PARTS:
        schema["$defs"][part.__name__] = _part(part)
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    extends = {"type": "string", "description": "Another file, relative to this one, that this one changes."}
    schema["properties"] = {"extends": extends, **schema["properties"]}
    return {"$schema": DIALECT, "title": "A run of masksup", **schema}


def dotted(schema: Schema) -> dict[str, Schema]:
    """The sections and settings of `run_schema` by the keys that a sweep and the command line have for them.

    An option that several parts have may be what any of them takes.
    """
    found: dict[str, Schema] = {}
    for key, value in _keys(schema, schema["$defs"], ""):
        found[key] = {"anyOf": [*found[key].get("anyOf", [found[key]]), value]} if key in found else value
    return found


def _keys(section: Schema, parts: Schema, prefix: str) -> Iterator[tuple[str, Schema]]:
    for name, value in section.get("properties", {}).items():
        if name == "extends":
            continue
        yield prefix + name, value
        inner = parts.get(str(value.get("$ref", "")).rpartition("/")[2], {})
        yield from _keys(inner, parts, f"{prefix}{name}.")
        for choice in inner.get("allOf", ()):
            options = {key: kind for key, kind in choice["then"]["properties"].items() if key != "name"}
            yield from _keys({"properties": options}, parts, f"{prefix}{name}.")


def _part(part: type[Component]) -> Schema:
    """Options by name. Where a file leaves the name to the one it extends, the options of any part of the kind."""
    registry, rules, known = part.registry, [], {"name"}
    for name in registry.entries:
        options = tidy(registry.options(name).model_json_schema())["properties"]
        if "base" in options:  # a method that looks at an image through another
            options["base"] = {"anyOf": [{"$ref": f"#/$defs/{part.__name__}"}, {"type": "null"}]}
        for option, kind in options.items():
            kind["description"] = registry.meaning(name, option)
        known |= options.keys()
        rules.append({
            "if": {"required": ["name"], "properties": {"name": {"const": name}}},
            "then": {"properties": {"name": True, **options}, "additionalProperties": False},
        })  # fmt: skip
    kinds = {"enum": list(registry.entries), "description": f"Which {registry.kind}."}
    return {
        "type": "object", "properties": {"name": kinds}, "propertyNames": {"enum": sorted(known)}, "allOf": rules,
    }  # fmt: skip


def tidy(schema: Schema) -> Schema:
    """A schema of pydantic without its own titles, each text in one line."""
    found = _tidied(copy.deepcopy(schema))
    assert isinstance(found, dict)
    return found


def _tidied(node: Any) -> Any:
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("title"), str):
        del node["title"]
    if isinstance(node.get("description"), str):
        node["description"] = " ".join(node["description"].split())
    return {key: _tidied(value) for key, value in node.items()}


def model_schema(model: type[BaseModel], title: str) -> Schema:
    """Of a file that is not a run: as its model has it."""
    return {"$schema": DIALECT, "title": title, **tidy(model.model_json_schema(by_alias=True))}
