"""A configuration for reading: every value, where it came from, what it means, what a resume makes of another."""

from collections.abc import Iterator

from rich.table import Table

from masksup.base.json_option import given_as_json
from masksup.base.log import console
from masksup.config.component import Component
from masksup.config.load import dump
from masksup.config.messages import items
from masksup.config.on_resume import find_field, on_resume
from masksup.config.schema import Config
from masksup.config.yaml_text import yaml_inline

_HEADINGS = ("setting", "value", "from", "meaning", "on resume")


def print_config(config: Config, sources: dict[str, str], json: str | None = None) -> None:
    """Print `describe`: a table on a terminal, else lines that are YAML; or JSON rows where `--json` says so."""
    rows = list(describe(config, sources))
    with given_as_json(json) as give:
        give([dict(zip(_HEADINGS, row)) for row in rows])
    if json is not None:
        return
    if not console.is_terminal:
        for key, value, source, meaning, mark in rows:
            print(f"{key}: {value}  # {source}{'; ' + meaning if meaning else ''} On resume: {mark}.")
        return
    table = Table(*_HEADINGS)
    for key, value, source, *rest in rows:
        table.add_row(key, value, source, *rest, style="" if source == "default" else "bold")
    console.print(table, soft_wrap=False)


def describe(config: Config, sources: dict[str, str]) -> Iterator[tuple[str, str, str, str, str]]:
    """Rows (key, value, where it came from, meaning, what a resume makes of another value) for every setting."""
    for key, value in items(dump(config)):
        yield key, yaml_inline(value), sources.get(key, "default"), _meaning(key), on_resume(key).value


def _meaning(key: str) -> str:
    section, field = find_field(key)
    if field is None and issubclass(section, Component):
        return f"an option of the {section.registry.kind}."
    return " ".join((field.description or "").split()) if field else ""
