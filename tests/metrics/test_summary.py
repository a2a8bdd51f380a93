"""The summary: published score matrices to their last printed digit, its protocol, JSON, and the tables."""

import io
import json

import numpy as np
import pytest
from logits import logit
from rich.console import Console

from masksup.errors import UserError
from masksup.metrics.average_precision import average_precision, mean_average_precision
from masksup.metrics.summary import score
from masksup.metrics.tables import headline, tables

MODELS = ("resnet18_1", "resnet50_1", "resnet34_attempt11")


@pytest.fixture(scope="module")
def published(shared_data):
    folder = shared_data / "voc2012_val_scores"
    with np.load(folder / "scores.npz") as arrays:
        return dict(arrays), json.loads((folder / "expected_metrics.json").read_text())


def labels_with(arrays, difficult):
    """The file's labels (1, 0 only difficult, -1 absent) in this project's convention."""
    raw = arrays["labels"]
    return np.where(raw == 1, 1, np.where(raw == 0, difficult, 0)).astype(np.int8)


@pytest.mark.shared
@pytest.mark.parametrize("model", MODELS)
def test_published_voc2012_scores_to_the_printed_digit(published, model):
    arrays, expected = published[0], published[1][model]
    classes, scores = arrays["classes"].tolist(), logit(arrays[model])
    negative = labels_with(arrays, 0)
    summary = score(scores, negative, classes)
    got = {key: summary[key] for key in ("CP", "CR", "CF1", "OP", "OR", "OF1")}
    got["mAP_area"] = summary["mAP"]
    got["mAP_voc2012_envelope"] = score(scores, negative, classes, ap_rule="voc2012")["mAP"]
    got["mAP_voc2007_11pt"] = score(scores, negative, classes, ap_rule="voc2007")["mAP"]
    got["mAP_area_difficult_ignored"] = score(scores, labels_with(arrays, -1), classes)["mAP"]
    got["mAP_area_difficult_positive"] = score(scores, labels_with(arrays, 1), classes)["mAP"]
    got["example_AP"] = mean_average_precision(average_precision(scores.T, negative.T))
    assert {key: round(value, 4) for key, value in got.items()} == {k: expected[k] for k in got}
    assert {name: round(ap, 3) for name, ap in summary["AP"].items()} == expected["AP"]
    assert set(got) | {"AP"} == set(expected), "a published number is not checked"


@pytest.mark.shared
def test_originals_on_published_scores(published):
    arrays = published[0]
    scores, labels = logit(arrays["resnet50_1"]), labels_with(arrays, -1)
    classes = arrays["classes"].tolist()
    clean, csra, mcar = (score(scores, labels, classes, compat=c) for c in ("none", "csra", "mcar"))
    assert csra["mAP"] == pytest.approx(clean["mAP"], abs=0.01), "they differ by ties alone"
    assert mcar["mAP"] == csra["mAP"]
    assert csra["CP"] == clean["CP"], "no class is silent"
    as_negative = score(scores, labels_with(arrays, 0), classes, threshold=0.6)
    assert {k: mcar[k] for k in ("CP", "OP", "OF1")} == {k: as_negative[k] for k in ("CP", "OP", "OF1")}
    assert (csra["protocol"]["threshold"], mcar["protocol"]["threshold"]) == (0.5, 0.6)


def small():
    scores = np.array([[0.9, 0.2, 0.7], [0.4, 0.6, 0.1]], np.float32)
    return logit(scores), np.array([[1, 0, -1], [0, 1, 0]], np.int8), ["cat", "dog", "[red] hat"]


def test_summary_is_json_and_names_its_protocol():
    summary = score(*small())
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["mAP"] == 100.0
    assert summary["AP"] == {"cat": 100.0, "dog": 100.0, "[red] hat": None}
    assert summary["positives"] == {"cat": 1, "dog": 1, "[red] hat": 0}
    assert (summary["images"], summary["classes"], summary["scored_classes"]) == (2, 3, 2)
    assert (summary["unscored"], summary["ignored_pairs"]) == (["[red] hat"], 1)
    assert summary["protocol"]["ap_rule"] == "area"
    assert summary["protocol"]["class_without_positives"] == "left out of means over classes"
    assert score(*small(), compat="csra_wider")["protocol"]["ignored_at_threshold"] == "negative"


def test_nothing_to_score_is_none_not_zero():
    summary = score(np.zeros((3, 2), np.float32), np.zeros((3, 2), np.int8), ["a", "b"])
    assert summary["mAP"] is summary["OF1"] is summary["top3"]["CF1"] is None
    assert summary["unscored"] == ["a", "b"]
    assert headline(summary).startswith("mAP - (area AP, 3 images, 0 of 2 classes")


def test_ties_follow_the_compatibility_mode():
    scores, labels = np.full((2, 1), 0.5, np.float32), np.array([[1], [0]], np.int8)
    clean, original = (score(scores, labels, ["a"], compat=compat) for compat in ("none", "mcar"))
    assert (clean["mAP"], clean["protocol"]["ties"]) == (50.0, "ranked together")
    assert (original["mAP"], original["protocol"]["ties"]) == (100.0, "in sample order")


def test_rules_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match="compat 'csra': found AP rule 'voc2007', expected 'area'"):
        score(*small(), compat="csra", ap_rule="voc2007")


@pytest.mark.parametrize("width", [60, 100, 160])
def test_tables_show_every_class_in_full(width):
    rng = np.random.default_rng(0)
    names = [f"class {c}" for c in range(78)] + ["[bold]tag", "a name far too long for a terminal"]
    labels = (rng.random((500, 80)) < 0.1).astype(np.int8)
    summary = score(rng.normal(size=(500, 80)), labels, names)
    out = io.StringIO()
    console = Console(file=out, width=width)
    for table in tables(summary, width):
        console.print(table)
    lines = out.getvalue().splitlines()
    cells = {cell.strip() for line in lines for cell in line.split("│")}
    assert max(map(len, lines)) <= width
    assert len(lines) < 20 + 80 / (width // 40), "several columns"
    assert set(names[:79]) <= cells
    assert {f"{ap:.2f}" for ap in summary["AP"].values()} <= cells
    assert {str(count) for count in summary["positives"].values()} <= cells
