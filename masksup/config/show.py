"""A configuration for reading: every value, where it came from, what it means."""

from collections.abc import Iterator

from pydantic import BaseModel
from rich.table import Table

from masksup.base.log import console
from masksup.config.component import Component
from masksup.config.load import dump
from masksup.config.messages import items
from masksup.config.schema import Config
from masksup.config.yaml_text import yaml_inline


def print_config(config: Config, sources: dict[str, str]) -> None:
    """Print `describe`: a table on a terminal, else lines that are YAML."""
    rows = list(describe(config, sources))
    if not console.is_terminal:
        for key, value, source, meaning in rows:
            print(f"{key}: {value}  # {source}{'; ' + meaning if meaning else ''}")
        return
    table = Table("setting", "value", "from", "meaning")
    for key, value, source, meaning in rows:
        table.add_row(key, value, source, meaning, style="" if source == "default" else "bold")
    console.print(table, soft_wrap=False)


def describe(config: Config, sources: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Rows (key, value, where it came from, meaning) for every setting."""
    for key, value in items(dump(config)):
        yield key, yaml_inline(value), sources.get(key, "default"), _meaning(key)


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
