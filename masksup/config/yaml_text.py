"""YAML as text: the only reader of it, and the writer. Plain values, no objects, no code."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from masksup.base.files import read_text
from masksup.base.words import kind_of
from masksup.errors import UserError

_MOST_NODES = 100_000  # values of a file, unfolded: aliases of aliases make billions of a few lines


class _UniqueKeyLoader(yaml.SafeLoader):
    """`yaml.safe_load`, refusing a key that stands twice in one mapping."""


class _TextLoader(_UniqueKeyLoader):
    """The same, with every scalar as it is written: `no` is a name, and 1.10 is not 1.1."""


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

_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


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


def parse_yaml(text: str | bytes, texts: bool = False) -> Any:
    """One YAML document. ValueError, in one line, for anything that is not one, or that unfolds to far more.

    texts: scalars are texts as they are written.
    """
    try:
        loader = (_TextLoader if texts else _UniqueKeyLoader)(text)  # a SafeLoader: plain values, no objects, no code
        node = loader.get_single_node()
        if _unfolded(node, {}) > _MOST_NODES:
            raise ValueError(f"its aliases unfold to more than {_MOST_NODES:,} values")
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file (safe loader, duplicate keys refused)."""
    if (own := path / "config.yaml").is_file():
        raise UserError(f"{path}: found a run folder, expected a configuration file; its own is {own}")
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


def write_yaml(tree: dict[str, Any]) -> str:
    """The text that `parse_yaml` reads as `tree`, its keys in order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def yaml_inline(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10_000).strip().removesuffix("\n...")
