"""What is known of a training part before anything is trained, and what is too little to choose by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.words import counted, listed
from masksup.data.split import Part
from masksup.errors import UserError

FEWEST = 10  # images: a fold leaves five, by which the strength of a head that is solved is found


@dataclass(frozen=True)
class DataFacts:
    """Of N samples with C classes."""

    title: str
    index: str
    """Hash of the index."""
    samples: int
    images: int
    sides: tuple[int, int]
    """Median width and height, px."""
    classes: tuple[str, ...]
    positives_C: NDArray[np.int64]
    ignored: float
    """Share of the pairs."""
    folds: int

    @property
    def counted_C(self) -> NDArray[np.bool_]:
        """Classes that can be judged: each fold can hold a positive, and so can what is trained for it."""
        counted_C: NDArray[np.bool_] = self.positives_C >= self.folds
        return counted_C

    def lines(self) -> list[str]:
        """For people."""
        some, few = self.positives_C[self.counted_C], [self.classes[c] for c in np.flatnonzero(~self.counted_C)]
        lines = [
            f"{self.title}: {counted(self.samples, 'sample')} of {counted(self.images, 'image')}, typically "
            f"{self.sides[0]} x {self.sides[1]} px; {counted(len(self.positives_C), 'class')}, "
            f"{100 * self.ignored:.1f} % of the labels ignored",
            f"settings are judged by {counted(len(some), 'class')} with at least {self.folds} positive samples, one for"
            f" each fold ({int(some.min())} to {int(some.max())}, median {int(np.median(some))})",
        ]
        if few:
            lines.append(f"{counted(len(few), 'class')} with fewer, learnt but not judged: {listed(few)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.title, "index": self.index, "samples": self.samples, "images": self.images,
            "classes": len(self.positives_C), "judged_classes": int(self.counted_C.sum()), "ignored": self.ignored,
        }  # fmt: skip


def facts_of(part: Part, folds: int, name: Path | None = None) -> DataFacts:
    """Look at a training part. UserError where nothing can be chosen by it, which calls it `name`."""
    images = len(np.unique(np.asarray(part.index.sample_image_N)[part.samples]))
    positives_C, where = part.count(1), str(name or part.index.folder)
    if images < (least := max(2 * folds, FEWEST)):
        raise UserError(
            f"{where}: found {counted(images, 'image')}, too few to choose by {folds} folds; expected at least {least}"
        )
    if not positives_C.any():
        raise UserError(f"{where}: found no label that is present, so there is nothing to learn")
    facts = DataFacts(
        part.title, part.index.hash, len(part), images,
        (int(np.median(part.index.sizes_I2[:, 0])), int(np.median(part.index.sizes_I2[:, 1]))),
        tuple(part.index.classes), positives_C, float(part.count(-1).sum() / max(part.labels.size, 1)), folds,
    )  # fmt: skip
    if not facts.counted_C.any():
        raise UserError(
            f"{where}: no class has {folds} positives, one for each fold, so nothing can be judged; found at most "
            f"{int(positives_C.max())}; label more, or take a smaller --folds"
        )
    if not (facts.counted_C & (part.count(0) > 0)).any():
        raise UserError(f"{where}: found no class that is ever absent, so nothing can be judged; label what is absent")
    return facts
