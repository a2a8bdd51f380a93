"""`random` of a sweep file: values drawn from ranges. `guided` searches the same ranges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from masksup.errors import UserError, nearest

Rules = dict[str, dict[str, list[float | int | str | bool | None]]]
_KINDS = ("uniform", "log", "integer", "choice")


class Draws(BaseModel):
    """`random`: how many settings to draw, and from what."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    count: Annotated[int, Field(ge=1)]
    """Settings to draw. A larger number adds to those drawn before."""
    seed: int = 0
    keys: Rules
    """Key -> one of {uniform: [low, high]}, {log: [low, high]}, {integer: [low, high]}, {choice: [...]}."""


@dataclass(frozen=True)
class Range:
    """What a key may be: one of `values` (choice), or a number between the two of them (uniform, log, integer)."""

    kind: str
    values: tuple[Any, ...]

    def draw(self, rng: Random) -> Any:
        if self.kind == "choice":
            return rng.choice(self.values)
        low, high = self.values
        if self.kind == "integer":
            return rng.randint(int(low), int(high))
        if self.kind == "uniform":
            return self.short(rng.uniform(low, high))
        return self.short(math.exp(rng.uniform(math.log(low), math.log(high))))

    def short(self, value: Any) -> Any:
        """A fraction in six digits, so that the command of a setting can be read; anything else as it is."""
        if not isinstance(value, float) or self.kind == "choice":
            return value
        low, high = self.values
        return min(max(float(f"{value:.6g}"), low), high)

    def holds(self, value: Any) -> bool:
        if self.kind == "choice":
            return value in self.values
        return isinstance(value, int | float) and self.values[0] <= value <= self.values[1]


def read_ranges(where: str, rules: Rules) -> dict[str, Range]:
    """UserError naming the key, found and expected."""
    return {key: _range(f"{where}.{key}", rule) for key, rule in rules.items()}


def _range(where: str, rule: Mapping[str, list[Any]]) -> Range:
    if len(rule) != 1:
        raise UserError(f"{where}: found {sorted(rule)}, expected one of uniform, log, integer, choice")
    ((kind, values),) = rule.items()
    if kind not in _KINDS:
        raise UserError(f"{where}: {kind}: unknown; {nearest(kind, _KINDS)}")
    if kind == "choice":
        if not values:
            raise UserError(f"{where}: choice: found no value, expected a list of some")
        return Range("choice", tuple(values))
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(values) != 2 or len(numbers) != 2 or not numbers[0] <= numbers[1] or (kind == "log" and numbers[0] <= 0):
        raise UserError(f"{where}: {kind}: found {values}, expected a low and a high number")
    if kind == "integer" and any(number != int(number) for number in numbers):
        raise UserError(f"{where}: integer: found {values}, expected two whole numbers")
    return Range(kind, tuple(numbers))


def drawn(where: str, draws: Draws) -> list[tuple[str, dict[str, Any]]]:
    """(name, keys) of each setting. A function of seed, number and key: more draws, or another key, change none."""
    ranges = read_ranges(f"{where}: random.keys", draws.keys)
    return [
        (
            f"random{number:03d}",
            {key: range_.draw(Random(f"{draws.seed}/{number}/{key}")) for key, range_ in ranges.items()},
        )
        for number in range(draws.count)
    ]
