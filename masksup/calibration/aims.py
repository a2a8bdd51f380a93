"""What thresholds are to achieve."""

import math
from dataclasses import dataclass
from typing import Literal

from masksup.base.words import counted
from masksup.errors import UserError

AIMS = "f1, precision=P, recall=R or budget=K"
Kind = Literal["f1", "precision", "recall", "budget"]


@dataclass(frozen=True)
class Aim:
    """`value` is the least precision or recall, a fraction, or the labels an image; of f1 it is 0.

    | aim | a class's own threshold | the threshold that classes share |
    |---|---|---|
    | f1 | has the highest F1 | has the highest mean of the F1 of the classes with positives |
    | precision=P | is the lowest with precision >= P, so that recall is highest | the same over all pairs |
    | recall=R | is the highest with recall >= R, so that fewest are predicted | the same over all pairs |
    | budget=K | predicts as many images as its part of K, in proportion to how common it is | predicts the rest of K |
    """

    kind: Kind
    value: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "f1" else f"{self.kind}={self.value:g}"


def parse_aim(text: str, classes: int) -> Aim:
    """From "f1", "precision=0.9", "recall=0.8" or "budget=3". UserError where it is none of them, or out of bounds."""
    if text == "f1":
        return Aim("f1")
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if name == "precision" and 0 < value < 1:
        return Aim("precision", value)
    if name == "recall" and 0 < value <= 1:
        return Aim("recall", value)
    if name == "budget" and 0 < value <= classes:
        return Aim("budget", value)
    raise UserError(
        f"--aim: found '{text}', expected {AIMS}: P above 0 and below 1, R above 0 and at most 1, K above 0 and at "
        f"most the {counted(classes, 'class')}"
    )
