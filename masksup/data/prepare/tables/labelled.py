"""What every reader of labels ends in: rows of an image and its labels, before classes and images are looked at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from masksup.base.words import counted


class Box(NamedTuple):
    """A marked object: its class, xyxy in px, and bits as in the index (DIFFICULT, ...)."""

    label: str
    left: float
    top: float
    right: float
    bottom: float
    flags: int = 0


@dataclass(slots=True)
class Row:
    """One image with its labels: 1 present, 0 absent, -1 ignored; of what is not there the table says what it is."""

    line: int
    image: str
    labels: dict[str, int]
    boxes: list[Box] | None = None
    """Where objects are marked."""
    size: tuple[int, int] | None = None
    """Width and height that the table states, in px."""


@dataclass
class Labelled:
    """The rows of one split."""

    file: Path
    columns: tuple[str, ...] | None
    """The classes, where the file says which there are; None: those that rows show."""
    rows: list[Row]
    warnings: list[str] = field(default_factory=list)
    where_is: Callable[[int], str] | None = None
    unlisted: int = 0
    """The label of a class that a row does not hold."""

    def where(self, row: Row) -> str:
        """For messages."""
        return self.where_is(row.line) if self.where_is else f"{self.file}, line {row.line}"


def set_uncertain(table: Labelled, uncertain: str) -> None:
    """Make ignored labels present or absent, or leave them: what --uncertain says.

    A label that no row names is nobody's doubt: it never becomes present.
    """
    if uncertain == "ignore":
        return
    changed = 0
    if table.unlisted == -1 and uncertain == "absent":
        table.unlisted = 0
    for row in table.rows:
        for name in [name for name, value in row.labels.items() if value == -1]:
            changed += 1
            row.labels[name] = 1 if uncertain == "present" else 0
    if changed:
        table.warnings.append(f"{counted(changed, 'uncertain label')} taken as {uncertain}")
