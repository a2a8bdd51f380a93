"""The keys of settings, and what is wrong with one, in one line."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from masksup.config.schema import Config
from masksup.errors import nearest


def items(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def leaves(tree: dict[str, Any]) -> list[str]:
    return [key for key, _ in items(tree)]


def one_line(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    kind, message = problem["type"], problem["msg"]
    if kind == "extra_forbidden":
        others = keys_named(location[-1])
        hint = f"did you mean {' or '.join(others)}?" if others else nearest(location[-1], _known(location[:-1]))
        return f"{'.'.join(location)}: unknown key; {hint}"
    if kind == "missing":
        return f"{'.'.join(location)}: not set, and it has no default"
    if kind == "conflict":
        return str(message)
    if kind == "component":
        return ".".join([*location, str(message)])
    location = [part for part in location if part in _known_anywhere()] or location
    return f"{'.'.join(location)}: found {problem['input']!r}; {message[:1].lower()}{message[1:]}"


def keys_named(name: str) -> list[str]:
    """The dotted keys that end in `name`: `precision.device` for device."""
    return [key for key in schema_keys() if key.rpartition(".")[2] == name]


def schema_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """All dotted keys of a configuration; of a part (head, loss, method) `name` alone, as options depend on it."""
    found = []
    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += schema_keys(field.annotation, f"{key}.")
        else:
            found.append(key)
    return found


def _known(location: list[str]) -> list[str]:
    section: type[BaseModel] = Config
    for part in location:
        annotation = section.model_fields[part].annotation
        assert isinstance(annotation, type)
        section = annotation
    return [field.alias or name for name, field in section.model_fields.items()]


def _known_anywhere() -> set[str]:
    # Union branches add their own names ("constrained-int", "literal['card']") to a location; drop those.
    return {part for key in schema_keys() for part in key.split(".")}
