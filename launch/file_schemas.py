"""What the files of a sweep and of a site may hold, as JSON Schema. `masksup schema` asks for them by name."""

from typing import Any

from launch.cluster.resources import Resources
from launch.sweeps.settings import SweepFile
from masksup.config.json_schema import dotted, model_schema, run_schema

_AS_TEXT = {"type": ["string", "number"]}  # `time: 30`, `account: 1234`
_FLAGS = {"type": ["string", "number", "boolean"]}  # of sbatch and srun: `exclusive: true`
# A whole value that another section holds, such as the options of a method that looks through another.
_DEEPER = {r"^method\.base\.": True}


def site_schema() -> dict[str, Any]:
    """~/.config/masksup/cluster.yaml, and `resources` of a sweep."""
    schema = model_schema(Resources, "A site of masksup-launch")
    keys = {name: _also_numbers(value) for name, value in schema["properties"].items()}
    for name in ("sbatch", "srun"):
        keys[name] = {**keys[name], "additionalProperties": _FLAGS}
    return {**schema, "properties": keys}


def _also_numbers(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_also_numbers(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _also_numbers(value) for key, value in schema.items()}
    return inner | _AS_TEXT if inner.get("type") == "string" else inner


def sweep_schema() -> dict[str, Any]:
    """configs/sweeps/*.yaml: every key of a setting is one of a run."""
    run, schema = run_schema(), model_schema(SweepFile, "A sweep of masksup-launch")
    keys, parts, site = dotted(run), schema["$defs"], site_schema()
    kept = {key: {"$ref": f"#/$defs/Settings/{key}"} for key in keys}
    settings = {"properties": kept, "patternProperties": _DEEPER, "additionalProperties": False}
    several = {key: {"type": "array", "minItems": 1, "items": value} for key, value in kept.items()}
    names = {"type": "string", "description": "Name of the setting, and of its folder."}
    top = schema["properties"]
    top["set"] |= settings
    top["grid"] |= {**settings, "properties": several}
    top["list"]["items"] = {"type": "object", **settings, "properties": {"name": names, **kept}}
    top["resources"] |= {"properties": site["properties"], "additionalProperties": False}
    for search in ("Draws", "Guided"):
        ranges = parts[search]["properties"]["keys"]
        ranges["propertyNames"] = {"anyOf": [{"enum": list(keys)}, {"pattern": next(iter(_DEEPER))}]}
    return {**schema, "$defs": {**run["$defs"], **parts, "Settings": keys}}
