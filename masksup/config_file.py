"""YAML and `key=value` overrides into a `Config`, and back. The only reader of YAML."""

import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from masksup.config import Config
from masksup.config_component import Component
from masksup.errors import UserError, nearest
from masksup.runtime.files import read_text
from masksup.words import kind_of

# Keys whose values are paths: made absolute, so that the resolved file works from any folder.
_PATHS = (
    ("data", "train"), ("data", "eval"), ("data", "test"), ("model", "weights"), ("model", "features"),
    ("method", "folder"),
)  # fmt: skip


_TYPED = "command line"  # the source of an override
_MOST_NODES = 100_000  # values of a file, unfolded: aliases of aliases make billions of a few lines
# Sections whose `name` chooses a registered part: the options of one part do not fit another.
_PARTS = {"model.head", "method", "loss"}


class _UniqueKeyLoader(yaml.SafeLoader):
    """`yaml.safe_load`, refusing a key that stands twice in one mapping."""


class _Dumper(yaml.SafeDumper):
    """`yaml.safe_dump` for texts that `_UniqueKeyLoader` reads."""


# Numbers as people write them: 1e-4 is one, and 24:00:00 is not (YAML 1.1 has it the other way round).
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$",
    "tag:yaml.org,2002:float": r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$",
}
for _either in (_UniqueKeyLoader, _Dumper):
    _either.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in _NUMBERS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for _tag, _pattern in _NUMBERS.items():
        _either.add_implicit_resolver(_tag, re.compile(_pattern), list("-+.0123456789"))


def _mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key is not a name", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _unfolded(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a document has where each alias is what it stands for. `known`: of nodes by their identity."""
    if id(node) not in known:
        known[id(node)] = 1  # of a node within itself, which the loader refuses
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        below = (part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,)))
        known[id(node)] = 1 + sum(_unfolded(part, known) for part in below)
    return known[id(node)]


def parse_yaml(text: str | bytes) -> Any:
    """One YAML document. ValueError, in one line, for anything that is not one, or that unfolds to far more."""
    try:
        loader = _UniqueKeyLoader(text)  # a SafeLoader: plain values, no objects, no code
        node = loader.get_single_node()
        if _unfolded(node, {}) > _MOST_NODES:
            raise ValueError(f"its aliases unfold to more than {_MOST_NODES:,} values")
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


def load_config(path: Path, overrides: Iterable[str] = ()) -> tuple[Config, dict[str, str]]:
    """Read one run's settings.

    `path` is a YAML file, which may name another as `extends` (relative to itself, one level); `overrides` are
    ``section.key=value`` strings. Returns the configuration and, for each dotted key that was set, where.
    Raises UserError for anything a user can mend: file, key, what was found and expected.
    """
    tree, origin = read_yaml(path), str(path)
    sources: dict[str, str] = {}
    base = tree.pop("extends", None)
    if base is not None:
        parent = path.parent / str(base)
        merged = read_yaml(parent)
        if "extends" in merged:
            raise UserError(f"{parent}: extends: found in a file that is itself extended; one level is allowed")
        sources |= dict.fromkeys(_leaves(merged), str(parent))
        tree = _merge(merged, tree, sources, origin)
    else:
        sources |= dict.fromkeys(_leaves(tree), origin)
    # Names first: the options that stand beside one on the command line are meant for it.
    for override in sorted(overrides, key=lambda text: not text.partition("=")[0].endswith(".name")):
        _apply(tree, override, sources)
    config = validate(tree, origin, sources)
    return config, {key: where for key, where in sources.items() if key in set(_leaves(dump(config)))}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file (safe loader, duplicate keys refused)."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise UserError(f"{path}: found {kind_of(tree)}, expected a mapping of sections")
    return tree


def validate(tree: dict[str, Any], origin: str, sources: Mapping[str, str] | None = None) -> Config:
    """Check a nested mapping and make it a `Config`; `sources`, else `origin`, say in errors where a key was set."""
    try:
        return Config.model_validate(_absolute(tree))
    except ValidationError as error:
        # What was just typed comes first: it is not why the rest is wrong.
        typed = {key for key, where in (sources or {}).items() if where == _TYPED}
        problems = sorted(error.errors(), key=lambda problem: ".".join(map(str, problem["loc"])) not in typed)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        where = (sources or {}).get(".".join(map(str, problems[0]["loc"])), origin)
        raise UserError(f"{where}: {_one_line(problems[0])}{more}") from None


def dump(config: Config) -> dict[str, Any]:
    """The configuration as plain nested mappings, every default written out."""
    return config.model_dump(mode="json", by_alias=True)


def to_yaml(config: Config) -> str:
    """The resolved file: reading it gives the same `Config`."""
    return yaml.dump(dump(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def differences(old: Config, new: Config) -> list[str]:
    """Lines ``key: old -> new`` for every setting in which two configurations differ."""
    a, b = dict(_items(dump(old))), dict(_items(dump(new)))
    keys = list(a) + [key for key in b if key not in a]
    return [f"{key}: {a.get(key)} -> {b.get(key)}" for key in keys if a.get(key) != b.get(key)]


def describe(config: Config, sources: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Rows (key, value, where it came from, meaning) for every setting."""
    for key, value in _items(dump(config)):
        yield key, yaml_inline(value), sources.get(key, "default"), _meaning(key)


def yaml_inline(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10_000).strip().removesuffix("\n...")


def _meaning(key: str) -> str:
    section: type[BaseModel] = Config
    for part in key.split("."):
        if issubclass(section, Component) and part != "name":
            return f"an option of the {section.registry.kind}"
        fields = {field.alias or name: field for name, field in section.model_fields.items()}
        field = fields[part]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            section = field.annotation
    return " ".join((field.description or "").split())


def _items(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _leaves(tree: dict[str, Any]) -> list[str]:
    return [key for key, _ in _items(tree)]


def _merge(
    base: dict[str, Any], over: dict[str, Any], sources: dict[str, str], origin: str, prefix: str = ""
) -> dict[str, Any]:
    """`over` on top of `base`. A part with another `name` replaces the old part, whose options would not fit."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        another = f"{prefix}{key}" in _PARTS and isinstance(value, dict) and _another(old, value.get("name"))
        if isinstance(old, dict) and isinstance(value, dict) and not another:
            merged[key] = _merge(old, value, sources, origin, f"{prefix}{key}.")
            continue
        merged[key] = value
        for leaf in [leaf for leaf in sources if leaf == prefix + key or leaf.startswith(f"{prefix}{key}.")]:
            del sources[leaf]
        sources |= dict.fromkeys(_leaves({key: value}) if not prefix else
                                 [prefix + leaf for leaf in _leaves({key: value})], origin)  # fmt: skip
    return merged


def _another(part: Any, name: Any) -> bool:
    """Whether `name` chooses another part than the one that is set."""
    return isinstance(part, dict) and name is not None and part.get("name") not in (None, name)


def _apply(tree: dict[str, Any], override: str, sources: dict[str, str]) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"override '{override}': expected section.key=value")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise UserError(f"override '{override}': the value is not valid YAML") from None
    *parents, last = dotted.split(".")
    node = tree
    for part in parents:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"override '{override}': '{part}' is a value, not a section")
    section = ".".join(parents)
    if last == "name" and section in _PARTS and _another(node, value):
        node.clear()
        for key in [key for key in sources if key.startswith(f"{section}.")]:
            del sources[key]
    node[last] = value
    sources[dotted] = _TYPED


def _absolute(tree: dict[str, Any]) -> dict[str, Any]:
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for section, key in _PATHS:
        group = tree.get(section)
        value = group.get(key) if isinstance(group, dict) else None
        is_name = (key == "weights" and value in ("none", "timm")) or str(value).startswith("pypi:")
        if isinstance(group, dict) and isinstance(value, str) and not is_name:
            group[key] = os.path.abspath(os.path.expanduser(value))  # noqa: PTH100, PTH111 (never raises)
    return tree


def _one_line(problem: Any) -> str:
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
    names = {part for key in _leaves({n: {} for n in Config.model_fields}) for part in key.split(".")}
    for field in Config.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names |= {sub.alias or name for name, sub in field.annotation.model_fields.items()}
    return names
