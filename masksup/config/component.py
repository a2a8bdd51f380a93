"""A registered part that the configuration names: its options are checked as the part itself declares them."""

import math
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from masksup.config.registry import Registry
from masksup.errors import nearest


def problem(key: str, message: str) -> PydanticCustomError:
    """What is wrong with a key, as validators raise it; `load` puts the section before the key."""
    return PydanticCustomError("component", "{key}: {message}", {"key": key, "message": message})


def _not_finite(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_not_finite, value))
    return isinstance(value, float) and not math.isfinite(value)


class Component(BaseModel):
    """A registered part by `name`; its other keys are the keyword-only options of that part's constructor."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)
    registry: ClassVar[Registry]
    name: str

    @model_validator(mode="before")
    @classmethod
    def _check_options(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        name = data.get("name", cls.model_fields["name"].default)
        if not isinstance(name, str):
            return data
        if name not in cls.registry.entries:
            hint = nearest(name, cls.registry.entries)
            raise problem("name", f"unknown {cls.registry.kind} '{name}'; {hint}")
        options = cls.registry.options(name)
        given = {key: value for key, value in data.items() if key != "name"}
        for key in given:
            if key not in options.model_fields:
                hint = nearest(key, ["name", *options.model_fields])
                raise problem(str(key), f"not an option of {cls.registry.kind} '{name}'; {hint}")
        for key, value in given.items():
            if _not_finite(value):  # every comparison with NaN is false, and JSON has neither it nor infinity
                raise problem(str(key), f"found {value!r}, expected numbers")
        try:
            return {"name": name, **options.model_validate(given).model_dump()}
        except ValidationError as error:
            first = error.errors()[0]
            raise problem(str(first["loc"][0]), f"found {first['input']!r}, {first['msg'].lower()}") from None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the part, defaults filled in."""
        return dict(self.model_extra or {})
