"""The decisions of a model: applied by the formulas, kept as JSON, read strictly and without torch."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masksup.decisions.calibration import Calibration, Isotonic, Platt, Temperature, Uncalibrated
from masksup.decisions.decisions import Decisions, Fitted, Origin, default_decisions, read_decisions, write_decisions
from masksup.errors import UserError

CLASSES = ("cat", "dog", "eel")
FITTED = Fitted("run/step-000000003-a01", "ab" * 32, 3, "ema", "shapes val", "cd" * 32, 20, "5 folds")
CALIBRATIONS: list[Calibration] = [
    Uncalibrated(),
    Temperature(1.7),
    Platt((0.5, 1.0, 2.0), (-1.0, 0.0, 0.25)),
    Isotonic(((-1.0, 0.5, 2.0), (0.0,), (-3.0, 3.0)), ((0.0, 0.25, 1.0), (0.3,), (0.1, 0.1))),
]


def decisions(calibration: Calibration) -> Decisions:
    return Decisions(CLASSES, (0.25, 0.1 + 0.2, 0.9), calibration, ("own", "shared", "given"), "f1", FITTED)


def by_the_formula(calibration: Calibration, c: int, z: float) -> float:
    if isinstance(calibration, Isotonic):
        x, y = calibration.logits[c], calibration.probabilities[c]
        if z <= x[0] or z >= x[-1]:
            return y[0] if z <= x[0] else y[-1]
        k = max(i for i in range(len(x)) if x[i] <= z)
        return y[k] + (y[k + 1] - y[k]) * (z - x[k]) / (x[k + 1] - x[k])
    if isinstance(calibration, Temperature):
        z = z / calibration.temperature
    elif isinstance(calibration, Platt):
        z = z * calibration.slope[c] + calibration.offset[c]
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("calibration", CALIBRATIONS, ids=lambda c: str(c.kind))
def test_a_class_is_predicted_from_its_own_threshold_on(calibration: Calibration, tmp_path: Path) -> None:
    made = decisions(calibration)
    logits_NC = np.random.default_rng(0).normal(0, 3, (50, 3)).astype(np.float32)
    found_NC = made.probabilities(logits_NC)
    expected_NC = [[by_the_formula(calibration, c, float(z)) for c, z in enumerate(row)] for row in logits_NC]
    np.testing.assert_allclose(found_NC, expected_NC, rtol=0, atol=1e-12)
    assert (np.diff(made.probabilities(np.sort(logits_NC, axis=0)), axis=0) >= 0).all(), "order within a class stays"
    for row_C in found_NC:
        names = [name for name, p, least in zip(CLASSES, row_C, made.thresholds) if p >= least]
        assert made.names(row_C) == names

    file = write_decisions(tmp_path, made)
    assert read_decisions(tmp_path) == made
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]
    np.testing.assert_array_equal(Decisions.from_json(json.loads(file.read_text())).probabilities(logits_NC), found_NC)


@pytest.mark.parametrize(
    ("origins", "told"),
    [
        (("own", "shared", "given"), "1 class has its own, 1 class has the shared one, 1 class has a given one"),
        (("own", "given", "given"), "1 class has its own, 2 classes have given ones"),
        (("own",) * 3, "3 classes have their own"),
        (("shared",) * 3, "3 classes have the shared one"),
    ],
)
def test_whose_thresholds_is_told_of_the_classes_that_there_are(origins: tuple[Origin, ...], told: str) -> None:
    line = replace(decisions(Temperature(2.0)), origins=origins).line()
    assert line == f"thresholds for f1, calibration temperature, fitted on shapes val: {told}"


def test_overrides_and_whose_weights() -> None:
    made = decisions(Temperature(2.0))
    given = made.with_given({"dog": 0.75})
    assert given.thresholds == (0.25, 0.75, 0.9)
    assert given.origins == ("own", "given", "given")
    with pytest.raises(UserError, match="'dgo': no such class; did you mean 'dog'"):
        made.with_given({"dgo": 0.5})
    assert made.with_threshold(0.5).thresholds == (0.5,) * 3
    assert made.with_threshold(0.5).calibration == made.calibration
    assert made.fits("ab" * 32, "ema")
    assert not made.fits("ab" * 32, "live")
    assert not made.fits("ef" * 32, "ema")
    plain = default_decisions(CLASSES, 0.5)
    assert plain.fits("anything", "live")
    assert plain.predicted(plain.probabilities(np.array([[0.0, -0.1, 0.1]]))).tolist() == [[True, False, True]]


WRONG: list[tuple[str, Any, str]] = [
    ("thresholds", [0.5, 0.5], "thresholds: found 2 numbers, expected 3"),
    ("thresholds", [0.5, 0.5, float("nan")], r"thresholds\[2\]: found nan"),
    ("thresholds", [0.5, 0.5, 1.5], "from 0 to 1"),
    ("thresholds", [0.5, 0.5, 10**400], "expected a finite number"),
    ("thresholds", [0.5, True, 0.5], "found True"),
    ("thresholds", "0.5", "expected a list"),
    ("classes", ["cat", "cat", "eel"], "each once"),
    ("classes", [], "at least one"),
    ("classes", ["cat", 1, "eel"], "expected a list of names"),
    ("origins", ["own", "own"], "a class"),
    ("origins", ["own", "own", "guess"], "guess"),
    ("aim", 1, "aim: found 1"),
    ("format", "masksup decisions 0", "format: found 'masksup decisions 0'"),
    ("spam", 1, "spam: not a key"),
    ("calibration", {"kind": "plat"}, "did you mean 'platt'"),
    ("calibration", {"kind": ["platt"]}, "found"),
    ("calibration", None, "kind: found None"),
    ("calibration", {"kind": "none", "temperature": 1.0}, "temperature: not a key"),
    ("calibration", {"kind": "temperature"}, "temperature: found nothing"),
    ("calibration", {"kind": "temperature", "temperature": 0}, "above 0"),
    ("calibration", {"kind": "platt", "slope": [1, 1], "offset": [0, 0, 0]}, "slope: found 2 numbers"),
    ("calibration", {"kind": "platt", "slope": [1, -1, 1], "offset": [0, 0, 0]}, r"slope\[1\]: found -1"),
    ("calibration", {"kind": "platt", "slope": 1, "offset": [0, 0, 0]}, "expected a list"),
    ("calibration", {"kind": "isotonic", "logits": [[0.0]] * 2, "probabilities": [[0.5]] * 3}, "found 2 rows"),
    ("calibration", {"kind": "isotonic", "logits": [[0.0, 0.0]] * 3, "probabilities": [[0.5, 0.6]] * 3}, "not rise"),
    ("calibration", {"kind": "isotonic", "logits": [[0.0, 1.0]] * 3, "probabilities": [[0.6, 0.5]] * 3}, "not rise"),
    ("calibration", {"kind": "isotonic", "logits": [[]] * 3, "probabilities": [[]] * 3}, "expected 1"),
    ("fitted", {"step": 1}, "checkpoint: found nothing"),
    ("fitted", {**vars(FITTED), "step": 1.5}, "whole number"),
    ("fitted", {**vars(FITTED), "weights": "best"}, "expected live or ema"),
    ("fitted", {**vars(FITTED), "data": None}, "expected text"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_a_file_that_is_wrong_is_refused_by_key(key: str, value: Any, message: str) -> None:
    tree = copy.deepcopy(decisions(Temperature(2.0)).to_json())
    tree[key] = value
    with pytest.raises(UserError, match=message) as caught:
        Decisions.from_json(tree, "run/decisions.json")
    assert str(caught.value).startswith("run/decisions.json: ")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "null", '{"format": NaN}'])
def test_a_file_that_is_no_such_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "decisions.json").write_text(text)
    with pytest.raises(UserError, match=r"decisions\.json"):
        read_decisions(tmp_path)


def test_reading_needs_numpy_alone() -> None:
    probe = (
        "import sys\nimport masksup.decisions.decisions\n"
        "heavy = {'torch', 'pydantic', 'scipy', 'PIL', 'yaml', 'rich'} & sys.modules.keys()\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
