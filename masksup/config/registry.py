"""Names of interchangeable parts (heads, losses, methods, ...), resolved only when used.

A registry maps a name to a ``"module:attribute"`` string. The options a part takes in YAML are the
keyword-only parameters of its constructor; they are read from its source, so that a login node can check a
configuration without importing torch.
"""

import ast
import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from masksup.errors import UserError, nearest

if TYPE_CHECKING:  # what runs an exported model has no pydantic, but names registries by importing their folders
    from pydantic import BaseModel

# What an option's annotation may use; anything richer would not be expressible in YAML.
_ANNOTATIONS = {
    "Literal": Literal, "int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict,
    "tuple": tuple, "None": None,
}  # fmt: skip

_NO_ARGUMENTS = ast.arguments([], [], None, [], [], None, [])


@dataclass(frozen=True)
class Registry:
    """The parts of one kind. `key` is where the configuration names the part."""

    kind: str
    key: str
    entries: Mapping[str, str]

    def target(self, name: str) -> str:
        """The ``"module:attribute"`` of `name`. Raises UserError naming the nearest known part."""
        if name not in self.entries:
            raise UserError(f"{self.key}: unknown {self.kind} '{name}'; {nearest(name, self.entries)}")
        return self.entries[name]

    def resolve(self, name: str) -> Any:
        """Import and return the part called `name`."""
        module, attribute = self.target(name).split(":")
        return getattr(importlib.import_module(module), attribute)

    def options(self, name: str) -> "type[BaseModel]":
        """A strict model of the options of `name`: its keyword-only parameters, with their defaults."""
        return _options_of(self.target(name))

    def meaning(self, name: str, option: str) -> str:
        """What the docstring of the part says of an option: the sentence that names it; "" where none does."""
        module, attribute = self.target(name).split(":")
        nodes = (node for node in _source_of(module).body if getattr(node, "name", None) == attribute)
        text = " ".join((ast.get_docstring(next(nodes)) or "").split())  # type: ignore[arg-type]
        said = r"(?P<said>(?:[^.]|\.\S)*\.)"
        names = rf"(?:^|[.;] |, and )(?:\w+, )*`?{option}`?(?:, \w+)*"
        ways = (
            rf"{names}: {said}",
            rf"{names} {said}",
            rf"(?:^|\. )(?P<said>(?:[^.]|\.\S)*`{option}`(?:[^.]|\.\S)*\.)",
        )
        found = next((match for way in ways if (match := re.search(way, text))), None)
        return found["said"].strip() if found else ""


@cache
def _options_of(target: str) -> "type[BaseModel]":
    from pydantic import ConfigDict, create_model

    module, attribute = target.split(":")
    arguments = _arguments(_source_of(module), attribute)
    fields: dict[str, Any] = {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        if argument.annotation is None:
            raise AssertionError(f"{target}: option '{argument.arg}' has no annotation")
        annotation = eval(ast.unparse(argument.annotation), {"__builtins__": {}}, dict(_ANNOTATIONS))
        fields[argument.arg] = (annotation, ... if default is None else ast.literal_eval(default))
    return create_model(attribute, __config__=ConfigDict(extra="forbid", frozen=True, strict=False), **fields)


@cache
def _source_of(module: str) -> ast.Module:
    # find_spec("a.b.c") imports a and a.b, which are light packages, but not c.
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _arguments(tree: ast.Module, attribute: str) -> ast.arguments:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == attribute:
            return node.args
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                    return member.args
            return _NO_ARGUMENTS  # it inherits its constructor, so it has no options of its own
    raise AssertionError(f"no function or constructor named '{attribute}' in the source")
