"""How the logits of each class become probabilities: as they are, or calibrated. numpy alone, as at deployment.

| kind | probability of class c at logit z | parameters |
|---|---|---|
| none | sigmoid(z) | |
| temperature | sigmoid(z / T), one T > 0 for all classes (Guo et al. 2017) | temperature |
| platt | sigmoid(a_c z + b_c), a_c > 0 (Platt 1999) | slope, offset |
| isotonic | linear between the knots of c, constant beyond (Zadrozny and Elkan 2002) | logits, probabilities |

All of them never fall as the logit rises, so the order of the images within a class stays, but for ties of `isotonic`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.words import counted, kind_of
from masksup.errors import UserError, nearest
from masksup.metrics.pairs import probabilities

_LARGEST = 1e300  # JSON knows integers beyond every float
Floats = NDArray[np.float64]
Row = tuple[float, ...]


@dataclass(frozen=True)
class Uncalibrated:
    """The sigmoid of the logit."""

    kind = "none"

    def __call__(self, logits_NC: NDArray[Any]) -> Floats:
        return probabilities(logits_NC)

    def parameters(self) -> dict[str, Any]:
        return {}

    def check(self, _where: str, _classes: int) -> None:
        pass


@dataclass(frozen=True)
class Temperature:
    """One number that all logits are divided by."""

    temperature: float
    kind = "temperature"

    def __call__(self, logits_NC: NDArray[Any]) -> Floats:
        return probabilities(logits_NC.astype(np.float64) / self.temperature)

    def parameters(self) -> dict[str, Any]:
        return {"temperature": self.temperature}

    def check(self, where: str, _classes: int) -> None:
        number(f"{where}.temperature", self.temperature, above=0)


@dataclass(frozen=True)
class Platt:
    """A slope and an offset for each class."""

    slope: Row
    offset: Row
    kind = "platt"

    def __call__(self, logits_NC: NDArray[Any]) -> Floats:
        return probabilities(logits_NC.astype(np.float64) * np.array(self.slope) + np.array(self.offset))

    def parameters(self) -> dict[str, Any]:
        return {"slope": list(self.slope), "offset": list(self.offset)}

    def check(self, where: str, classes: int) -> None:
        for name, row in self.parameters().items():
            numbers(f"{where}.{name}", row, classes, above=0 if name == "slope" else None)


@dataclass(frozen=True)
class Isotonic:
    """For each class the logits of its knots, rising, and the probability at each, never falling."""

    logits: tuple[Row, ...]
    probabilities: tuple[Row, ...]
    kind = "isotonic"

    def __call__(self, logits_NC: NDArray[Any]) -> Floats:
        columns = [np.interp(column, x, y) for column, x, y in zip(logits_NC.T, self.logits, self.probabilities)]
        return np.stack(columns, axis=1) if columns else np.zeros(logits_NC.shape)

    def parameters(self) -> dict[str, Any]:
        return {
            "logits": [list(row) for row in self.logits],
            "probabilities": [list(row) for row in self.probabilities],
        }

    def check(self, where: str, classes: int) -> None:
        for name, rows in self.parameters().items():
            if len(rows) != classes:
                raise UserError(f"{where}.{name}: found {counted(len(rows), 'row')}, expected {classes}, one a class")
        for c, (x, y) in enumerate(zip(self.logits, self.probabilities)):
            numbers(f"{where}.logits[{c}]", list(x), max(len(y), 1))
            numbers(f"{where}.probabilities[{c}]", list(y), len(x), within=(0, 1))
            if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
                raise UserError(f"{where}: the knots of class {c} do not rise")


Calibration = Uncalibrated | Temperature | Platt | Isotonic
KINDS = ("none", "temperature", "platt", "isotonic")


def calibration_from_json(tree: Any, where: str, classes: int) -> Calibration:
    """From {"kind": ..., its parameters}. UserError names the key that is unknown, missing or wrong."""
    if not isinstance(tree, dict) or tree.get("kind") not in KINDS:
        kind = tree.get("kind") if isinstance(tree, dict) else tree
        raise UserError(f"{where}.kind: found {kind!r}; {nearest(str(kind), KINDS)}")
    kind = tree["kind"]
    expected = {"none": (), "temperature": ("temperature",), "platt": ("slope", "offset")}
    given = fields(tree, where, ("kind", *expected.get(kind, ("logits", "probabilities"))))
    made: Calibration
    if kind == "none":
        made = Uncalibrated()
    elif kind == "temperature":
        made = Temperature(given["temperature"])
    elif kind == "platt":
        made = Platt(_row(given["slope"], f"{where}.slope"), _row(given["offset"], f"{where}.offset"))
    else:
        made = Isotonic(
            _rows(given["logits"], f"{where}.logits"), _rows(given["probabilities"], f"{where}.probabilities")
        )
    made.check(where, classes)
    return made


def fields(tree: Any, where: str, expected: tuple[str, ...]) -> dict[str, Any]:
    """`tree`, if it is an object with exactly the `expected` keys; else UserError."""
    if not isinstance(tree, dict):
        raise UserError(f"{where}: found {kind_of(tree)}, expected an object")
    for key in tree:
        if key not in expected:
            raise UserError(f"{where}.{key}: not a key of this file; {nearest(str(key), expected)}")
    missing = [key for key in expected if key not in tree]
    if missing:
        raise UserError(f"{where}.{missing[0]}: found nothing, expected this key")
    return tree


def number(where: str, value: Any, above: float | None = None, within: tuple[float, float] | None = None) -> None:
    """UserError unless `value` is a finite number, above a bound or within two, where they are given."""
    allowed = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
    if not allowed or (above is not None and value <= above) or (within and not within[0] <= value <= within[1]):
        bounds = f" above {above:g}" if above is not None else f" from {within[0]:g} to {within[1]:g}" if within else ""
        raise UserError(f"{where}: found {value!r}, expected a finite number{bounds}")


def whole(where: str, value: Any) -> int:
    """`value`, if it is a whole number above 0 that 64 bits hold; else UserError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
        raise UserError(f"{where}: found {value!r}, expected a whole number above 0")
    return value


def numbers(
    where: str, values: list[Any], count: int, above: float | None = None, within: tuple[float, float] | None = None
) -> None:
    """UserError unless there are `count` such numbers."""
    if len(values) != count:
        raise UserError(f"{where}: found {len(values)} numbers, expected {count}")
    for place, value in enumerate(values):
        number(f"{where}[{place}]", value, above, within)


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, list):
        raise UserError(f"{where}: found {kind_of(value)}, expected a list of numbers")
    return tuple(value)


def _rows(value: Any, where: str) -> tuple[Row, ...]:
    if not isinstance(value, list):
        raise UserError(f"{where}: found {kind_of(value)}, expected a list a class")
    return tuple(_row(row, f"{where}[{c}]") for c, row in enumerate(value))
