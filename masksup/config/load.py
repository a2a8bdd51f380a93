"""YAML and `key=value` overrides into a `Config`, and back."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from masksup.config.conflicts import conflicts
from masksup.config.messages import first_problem, items, key_of, leaves, more
from masksup.config.schema import Config
from masksup.config.yaml_text import parse_yaml, read_yaml, write_yaml
from masksup.errors import UserError

# Keys whose values are paths: made absolute, so that the resolved file works from any folder.
_PATHS = (
    ("data", "train"), ("data", "eval"), ("data", "test"), ("model", "weights"), ("model", "features"),
    ("method", "folder"),
)  # fmt: skip


_TYPED = "command line"  # the source of an override
# Sections whose `name` chooses a registered part: the options of one part do not fit another.
_PARTS = {"model.head", "method", "loss"}


def load_config(path: Path, overrides: Iterable[str] = ()) -> tuple[Config, dict[str, str]]:
    """Read one run's settings.

    `path` is a YAML file, which may name another as `extends` (relative to itself, one level); `overrides` are
    ``section.key=value`` strings. Returns the configuration and, for each dotted key that was set, where.
    Raises UserError for anything a user can mend: file, key, what was found and expected.
    """
    return _load(read_yaml(path), str(path), path.parent, [parsed(override) for override in overrides])


def load_settings(config: Path | Mapping[str, Any], settings: Mapping[str, Any]) -> Config:
    """The same from Python: a YAML file, or what would stand in one, and values by dotted key or by section."""
    overrides = [(key, value, f"settings['{key}']") for key, value in items(_plain(settings, "settings"))]
    if isinstance(config, Path):
        return _load(read_yaml(config), str(config), config.parent, overrides)[0]
    return _load(_plain(config, "config"), "config", Path(), overrides)[0]


def as_config(tree: Mapping[str, Any], origin: str, overrides: Iterable[str]) -> Config:
    """As `load_config`, of a file that is not written yet, which errors call `origin`."""
    return _load(_plain(tree, origin), origin, Path(), [parsed(override) for override in overrides])[0]


def _load(
    tree: dict[str, Any], origin: str, folder: Path, overrides: Iterable[tuple[str, Any, str]]
) -> tuple[Config, dict[str, str]]:
    """See `load_config`. folder: from where `extends` is named; overrides: key, value and what they are called."""
    sources: dict[str, str] = {}
    base = tree.pop("extends", None)
    if base is not None:
        parent = folder / str(base)
        merged = read_yaml(parent)
        if "extends" in merged:
            raise UserError(f"{parent}: extends: found in a file that is itself extended; one level is allowed")
        sources |= dict.fromkeys(leaves(merged), str(parent))
        tree = _merge(merged, tree, sources, origin)
    else:
        sources |= dict.fromkeys(leaves(tree), origin)
    # Names first: the options that stand beside one on the command line are meant for it.
    for key, value, called in sorted(overrides, key=lambda override: not override[0].endswith(".name")):
        _apply(tree, key, value, called, sources)
    config = validate(tree, origin, sources)
    return config, {key: where for key, where in sources.items() if key in set(leaves(dump(config)))}


def _plain(value: Any, where: str) -> Any:
    """A value of Python as YAML has it: paths as text, tuples as lists, mappings with text as keys."""
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise UserError(f"{where}: found the key {odd[0]!r}, expected text such as 'optim.lr'")
        return {key: _plain(inner, f"{where}['{key}']") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, where) for inner in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def validate(tree: dict[str, Any], origin: str, sources: Mapping[str, str] | None = None) -> Config:
    """Check a nested mapping and make it a `Config`; `sources`, else `origin`, say in errors where a key was set."""
    try:
        config = Config.model_validate(_absolute(tree))
    except ValidationError as error:
        # What was just typed comes first: it is not why the rest is wrong.
        typed = {key for key, where in (sources or {}).items() if where == _TYPED}
        problems = sorted(error.errors(), key=lambda problem: key_of(problem) not in typed)
        where = _source(key_of(problems[0]), sources or {}, origin)
        raise UserError(f"{where}: {first_problem(problems)}{more(problems)}") from None
    for broken, message in conflicts(config):
        if broken:
            raise UserError(f"{origin}: {message}")
    return config


def _source(key: str, sources: Mapping[str, str], origin: str) -> str:
    """Where `key` was set; of a section, where all in it was set, else `origin`."""
    within = {where for leaf, where in sources.items() if leaf.startswith(f"{key}.")}
    return sources.get(key, within.pop() if len(within) == 1 else origin)


def dump(config: Config) -> dict[str, Any]:
    """The configuration as plain nested mappings, every default written out."""
    return config.model_dump(mode="json", by_alias=True)


def to_yaml(config: Config) -> str:
    """The resolved file: reading it gives the same `Config`."""
    return write_yaml(dump(config))


def differences(old: Config, new: Config) -> dict[str, str]:
    """The settings in which two configurations differ: ``old -> new`` by key."""
    a, b = dict(items(dump(old))), dict(items(dump(new)))
    keys = list(a) + [key for key in b if key not in a]
    return {key: f"{a.get(key)} -> {b.get(key)}" for key in keys if a.get(key) != b.get(key)}


def beyond_defaults(config: Config) -> dict[str, Any]:
    """The settings that differ from their defaults, by key; options of a head, loss or method from that one's defaults.

    `data.train` and `model.backbone`, which have no default, are always among them.
    """
    required = {"data": {"train": ""}, "model": {"backbone": ""}}
    parts = {"model": {"backbone": "", "head": {"name": config.model.head.name}}}
    parts |= {"loss": {"name": config.loss.name}, "method": {"name": config.method.name}}
    usual = dict(items(dump(Config.model_validate(required | parts))))
    usual |= {key: value for key, value in items(dump(Config.model_validate(required))) if key.endswith(".name")}
    return {key: value for key, value in items(dump(config)) if key not in usual or value != usual[key]}


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
        sources |= dict.fromkeys(leaves({key: value}) if not prefix else
                                 [prefix + leaf for leaf in leaves({key: value})], origin)  # fmt: skip
    return merged


def _another(part: Any, name: Any) -> bool:
    """Whether `name` chooses another part than the one that is set."""
    return isinstance(part, dict) and name is not None and part.get("name") not in (None, name)


def parsed(override: str) -> tuple[str, Any, str]:
    """Key, value and name of a ``section.key=value``."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"override '{override}': expected section.key=value")
    try:
        return dotted, parse_yaml(text), f"override '{override}'"
    except ValueError:
        raise UserError(f"override '{override}': the value is not valid YAML") from None


def _apply(tree: dict[str, Any], dotted: str, value: Any, called: str, sources: dict[str, str]) -> None:
    *parents, last = dotted.split(".")
    node = tree
    for part in parents:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"{called}: '{part}' is a value, not a section")
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
