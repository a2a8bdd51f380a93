"""A class without negatives has no score where a person looks: TensorBoard, and the lines of `masksup eval`."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from masksup.base.log import log
from masksup.errors import UserError
from masksup.evaluation.collect import Outputs
from masksup.metrics.summary import score
from masksup.output.scores import _remarks
from masksup.report.compare import refuse_other_data
from masksup.training.score_log import record_scores

CLASSES = ("cat", "always", "never")
LABELS = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 0]], np.int8)
LOGITS = np.array([[2, 1, 0], [1, 2, 0], [-1, 0, 1]], np.float32)


@pytest.fixture
def summary() -> dict[str, Any]:
    found = score(LOGITS, LABELS, CLASSES) | {"stratified": None, "decided": None, "labelled_pairs": 8}
    found["protocol"] |= {"masked": None, "data": "mine val", "resolution": 32, "index": "0" * 64}
    return found


def test_tensorboard_has_no_curve_of_it(summary: dict[str, Any]) -> None:
    scalars: dict[str, dict[str, float]] = {}
    curves = []
    record = SimpleNamespace(
        scalars=lambda kind, step, epoch, values: scalars.update({kind: values}),
        pr_curve=lambda name, *_: curves.append(name),
        beside=lambda write: write(),
    )
    run = SimpleNamespace(
        record=record, progress=SimpleNamespace(step=1), config=SimpleNamespace(log=SimpleNamespace(pr_curves=True))
    )
    part = SimpleNamespace(labels_NC=LABELS, index=SimpleNamespace(classes=CLASSES))
    record_scores(run, summary, Outputs(LOGITS, np.zeros(3, bool)), part, 1.0)  # type: ignore[arg-type]
    assert (scalars["AP"], curves) == ({"cat": 100.0}, ["cat"])
    assert (scalars["eval"]["mAP"], scalars["eval"]["mAUROC"]) == (100.0, 100.0)


def test_eval_counts_and_names_it(
    summary: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = SimpleNamespace(weights="best", epoch=1.0, sha256="1" * 64, run=Path())
    monkeypatch.setattr(log, "propagate", True)
    with caplog.at_level(logging.INFO):
        _remarks(summary, trained)  # type: ignore[arg-type]
    assert "without positives, so not scored: never" in caplog.text
    assert "1 class without negatives, left out of mAP: always" in caplog.text


def test_two_runs_are_not_compared_where_it_is_all_there_is() -> None:
    part = SimpleNamespace(
        labels_NC=LABELS[:, 1:], samples=np.arange(3), index=SimpleNamespace(hash="0"), title="mine val"
    )
    run = SimpleNamespace(name="a", trained=SimpleNamespace(classes=CLASSES[1:]), part=part)
    with pytest.raises(UserError, match="mine val: no class is present in some samples and absent in others"):
        refuse_other_data(run, run)  # type: ignore[arg-type]
