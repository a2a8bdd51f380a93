"""What of the settings is the run and what its operation, and what a resume makes of another value."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from masksup.config.component import Component
from masksup.config.load import differences, dump
from masksup.config.messages import items
from masksup.config.schema import Config, OnResume, Section


def find_field(key: str) -> tuple[type[BaseModel], FieldInfo | None]:
    """The section of a dotted key and its field there; None for an option of a registered part."""
    section: type[BaseModel] = Config
    field = None
    for part in key.split("."):
        if issubclass(section, Component) and part != "name":
            return section, None
        field = {field.alias or name: field for name, field in section.model_fields.items()}.get(part, field)
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            section = field.annotation
    return section, field


def on_resume(key: str) -> OnResume:
    """The mark of a setting: its own or that of its section. A registered part and its options are the run."""
    section, field = find_field(key)
    own = [mark for mark in field.metadata if isinstance(mark, OnResume)] if field else []
    if own:
        return own[0]
    return section.on_resume if issubclass(section, Section) else OnResume.REFUSED


def changed(old: Config, new: Config, mark: OnResume) -> dict[str, str]:
    """The settings of this mark in which two configurations differ: ``old -> new`` by key."""
    return {key: values for key, values in differences(old, new).items() if on_resume(key) is mark}


def told(config: Config) -> Mapping[str, Any]:
    """The operation that may change results, as a start notes it: value by key."""
    return {key: value for key, value in items(dump(config)) if on_resume(key) is OnResume.TOLD}
