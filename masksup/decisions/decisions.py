"""What turns the logits of a model into decisions: class names, calibration, a threshold for each class.

Kept with a run as `RUN/decisions.json`, written into every exported and packed model, and read without torch.
A run without that file decides by the sigmoid and one threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import parse_json, read_json, unsealed, write_sealed
from masksup.base.words import counted, is_name
from masksup.decisions.calibration import Calibration, Uncalibrated, calibration_from_json, fields, number, numbers
from masksup.errors import UserError, nearest

FILE = "decisions.json"
CALIBRATION = "calibration.json"  # beside it: what `masksup calibrate` measured
FORMAT = "masksup decisions 1"
Origin = Literal["own", "shared", "given", "default"]
GIVEN: Origin = "given"
ORIGINS: tuple[Origin, ...] = ("own", "shared", "given", "default")


@dataclass(frozen=True)
class Fitted:
    """Which weights the decisions are for, and what they were fitted on."""

    checkpoint: str
    """Name of the checkpoint, with its run."""
    checkpoint_sha256: str
    """Of the checkpoint's tensors."""
    step: int
    weights: Literal["live", "ema"]
    data: str
    """Title of the part, e.g. "coco train (52 of 208)"."""
    index: str
    """Hash of its index."""
    samples: int
    """Samples that could be read."""
    protocol: str
    """How, in words: folds, fallback, resamples, treatment of ignored labels."""


@dataclass(frozen=True)
class Decisions:
    """A class is predicted where its calibrated probability is at least its threshold. C classes.

    `origins` says of each threshold whether it was fitted for that class alone ("own"), is the one shared by classes
    with few positives ("shared"), was given by hand ("given") or is the default of the run ("default").
    """

    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    calibration: Calibration = field(default_factory=Uncalibrated)
    origins: tuple[Origin, ...] = ()
    aim: str | None = None
    """f1, precision=P, recall=R or budget=K; None: nothing was fitted."""
    fitted: Fitted | None = None
    """None: nothing was fitted, so that they fit all weights."""

    def __post_init__(self) -> None:
        if not self.origins:
            object.__setattr__(self, "origins", ("default",) * len(self.classes))
        assert len(self.classes) == len(self.thresholds) == len(self.origins), "one threshold and origin a class"

    @property
    def thresholds_C(self) -> NDArray[np.float64]:
        return np.array(self.thresholds, np.float64)

    def probabilities(self, logits_NC: NDArray[Any]) -> NDArray[np.float64]:
        """Calibrated probabilities float64 N x C of logits N x C of any float type. UserError where one is NaN."""
        assert logits_NC.ndim == 2, logits_NC.shape
        assert logits_NC.shape[1] == len(self.classes), (logits_NC.shape, self.classes)
        probabilities_NC = self.calibration(logits_NC)
        wrong_NC = np.isnan(probabilities_NC)
        if wrong_NC.any():  # below every threshold, so that they would read as "absent"
            raise UserError(
                f"the network's output: found NaN for class '{self.classes[int(wrong_NC.any(0).argmax())]}' of "
                f"{int(wrong_NC.any(1).sum())} of {counted(len(wrong_NC), 'image')}, expected numbers; take other "
                "weights (its training diverged, or the precision is too low for it)"
            )
        return probabilities_NC

    def predicted(self, probabilities_NC: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which classes are predicted, bool N x C, from calibrated probabilities N x C (or of one image, C)."""
        predicted: NDArray[np.bool_] = probabilities_NC >= self.thresholds_C
        return predicted

    def names(self, probabilities_C: NDArray[np.float64]) -> list[str]:
        """The predicted classes of one image, in class order."""
        return [name for name, yes in zip(self.classes, self.predicted(probabilities_C)) if yes]

    def with_threshold(self, threshold: float) -> "Decisions":
        """The same with one threshold for all classes."""
        count = len(self.classes)
        return replace(self, thresholds=(threshold,) * count, origins=(GIVEN,) * count, aim=None)

    def with_given(self, given: dict[str, float]) -> "Decisions":
        """The same with the thresholds of some classes, by name. UserError where there is no such class."""
        for name in given:
            if name not in self.classes:
                raise UserError(f"threshold of '{name}': no such class; {nearest(name, self.classes)}")
        thresholds = tuple(given.get(name, old) for name, old in zip(self.classes, self.thresholds))
        origins = (GIVEN if name in given else old for name, old in zip(self.classes, self.origins))
        return replace(self, thresholds=thresholds, origins=tuple(origins))

    def fits(self, checkpoint_sha256: str, weights: str) -> bool:
        """Whether they may be used with these weights: they were fitted for them, or for none in particular."""
        return self.fitted is None or (self.fitted.checkpoint_sha256, self.fitted.weights) == (
            checkpoint_sha256,
            weights,
        )

    def line(self) -> str | None:
        """What decides, for people; None where nothing was fitted, or one threshold took its place."""
        if self.fitted is None or self.aim is None:
            return None
        held = {"own": ("has its own", "have their own"), "shared": ("has the shared one", "have the shared one"),
                GIVEN: ("has a given one", "have given ones")}  # fmt: skip
        counts = {origin: self.origins.count(origin) for origin in held}
        kinds = (f"{counted(count, 'class')} {held[origin][count > 1]}" for origin, count in counts.items() if count)
        return (
            f"thresholds for {self.aim}, calibration {self.calibration.kind}, fitted on {self.fitted.data}: "
            f"{', '.join(kinds)}"
        )

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes: numbers, strings, lists and None."""
        return {
            "format": FORMAT,
            "classes": list(self.classes),
            "thresholds": list(self.thresholds),
            "origins": list(self.origins),
            "calibration": {"kind": self.calibration.kind, **self.calibration.parameters()},
            "aim": self.aim,
            "fitted": None if self.fitted is None else vars(self.fitted),
        }

    @classmethod
    def from_json(cls, tree: Any, where: str = FILE) -> "Decisions":
        """Strictly: UserError names `where` and the key that is unknown, missing, of another length or not finite."""
        keys = ("format", "classes", "thresholds", "origins", "calibration", "aim", "fitted")
        if isinstance(tree, dict) and tree.get("format") != FORMAT:
            raise UserError(f"{where}: format: found {tree.get('format')!r}, expected {FORMAT!r}")
        if isinstance(tree, dict):
            tree = unsealed(tree, where, "run masksup calibrate again (--class NAME=P sets a threshold by hand)")
        given = fields(tree, f"{where}: decisions", keys)
        classes = _strings(given["classes"], f"{where}: classes")
        for name in classes:
            if not is_name(name):
                raise UserError(
                    f"{where}: classes: found {name!a}, expected 1 to 200 letters without control characters"
                )
        if not classes or len(set(classes)) < len(classes):
            raise UserError(
                f"{where}: classes: found {counted(len(classes), 'name')}, expected at least one and each once"
            )
        origins = _strings(given["origins"], f"{where}: origins")
        if len(origins) != len(classes) or not set(origins) <= set(ORIGINS):
            raise UserError(f"{where}: origins: found {list(origins)}, expected one of {', '.join(ORIGINS)} a class")
        if not isinstance(given["thresholds"], list):
            raise UserError(f"{where}: thresholds: found {given['thresholds']!r}, expected a list of numbers")
        numbers(f"{where}: thresholds", given["thresholds"], len(classes), within=(0, 1))
        if given["aim"] is not None and not isinstance(given["aim"], str):
            raise UserError(f"{where}: aim: found {given['aim']!r}, expected text or null")
        return cls(
            classes, tuple(map(float, given["thresholds"])),
            calibration_from_json(given["calibration"], f"{where}: calibration", len(classes)),
            tuple(origin for found in origins for origin in ORIGINS if origin == found),
            given["aim"], _fitted(given["fitted"], f"{where}: fitted"),
        )  # fmt: skip


def default_decisions(classes: Sequence[str], threshold: float) -> Decisions:
    """The sigmoid and one threshold: what a model decides by to which nothing was fitted."""
    return Decisions(tuple(classes), (threshold,) * len(classes))


def read_decisions(run: Path) -> Decisions | None:
    """Those kept in a run folder; None where there are none. UserError where they are broken."""
    file = run / FILE
    if not file.exists():
        return None
    return Decisions.from_json(read_json(file, "the decisions of a run"), str(file))


def decisions_from_text(text: str | bytes, where: str) -> Decisions:
    """From the text of a decisions file. UserError names `where`."""
    try:
        tree = parse_json(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    return Decisions.from_json(tree, where)


def write_decisions(run: Path, decisions: Decisions) -> Path:
    """Keep them in a run folder: whole, or the old ones stay. Returns the file."""
    write_sealed(run / FILE, decisions.to_json())
    return run / FILE


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise UserError(f"{where}: found {value!r}, expected a list of names")
    return tuple(value)


def _fitted(tree: Any, where: str) -> Fitted | None:
    if tree is None:
        return None
    names = tuple(Fitted.__dataclass_fields__)
    given = fields(tree, where, names)
    for name in names:
        if name in ("step", "samples"):
            number(f"{where}.{name}", given[name], within=(0, float(2**63)))
            if not isinstance(given[name], int):
                raise UserError(f"{where}.{name}: found {given[name]!r}, expected a whole number")
        elif not isinstance(given[name], str):
            raise UserError(f"{where}.{name}: found {given[name]!r}, expected text")
    if given["weights"] not in ("live", "ema"):
        raise UserError(f"{where}.weights: found {given['weights']!r}, expected live or ema")
    return Fitted(**given)
