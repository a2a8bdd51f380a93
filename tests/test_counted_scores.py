"""Evaluations too large to keep every score: counted, said so, and the same for any number of ranks."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import on_ranks

from masksup.base.place import ALONE
from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.data.split import whole
from masksup.evaluation.blocks import image_blocks
from masksup.evaluation.collect import Counted, Counts, Outputs, Pairs
from masksup.evaluation.forward import Predictor, collect, keeps_pairs
from masksup.evaluation.scores import evaluate
from masksup.metrics.summary import COUNTED, EXACT
from masksup.runtime.metrics_rows import read_rows
from masksup.runtime.ranks import Group
from masksup.training.train import train

MakeConfig = Callable[..., Config]
CPU = torch.device("cpu")
CLASSES = 12
APPROXIMATE = {"mAP", "AP", "protocol", "mAP_interval", "stratified", "stratified_why"}


def predict(images_B3SS: torch.Tensor) -> torch.Tensor:
    """Fixed logits of each image, spread over some units."""
    flat_BD = images_B3SS.float().flatten(1) / 255
    weights_DC = torch.randn(flat_BD.shape[1], CLASSES, generator=torch.Generator().manual_seed(0))
    return (flat_BD - 0.5) @ weights_DC / 4


def run(score: Any, data: Path, config: Config, group: Group) -> Any:
    part = whole(open_index(data))
    assert len(part.index.classes) == CLASSES
    predictor = Predictor(predict, config, CPU, torch.float32)
    return collect(score(part, config), predictor, partial(image_blocks, part, config), group)


@pytest.fixture
def config(tiny_config: MakeConfig) -> Config:
    return tiny_config(eval={"exact_pairs": 0, "batch": 3, "bootstrap": 20})


def test_scores_of_counts_are_those_of_all_scores(tiny_data: Path, config: Config) -> None:
    group, part = Group(ALONE, config.parallel), whole(open_index(tiny_data / "val"))
    counted, outputs = (run(score, tiny_data / "val", config, group) for score in (Counts, Pairs))
    assert isinstance(counted, Counted)
    assert isinstance(outputs, Outputs)
    assert np.array_equal(counted.head.logits_NC, outputs.logits_NC[:3])
    ours, exact = evaluate(counted, part, config), evaluate(outputs, part, config, resamples=20)
    assert ours.keys() == exact.keys()
    assert {k: v for k, v in ours.items() if k not in APPROXIMATE} == {
        k: v for k, v in exact.items() if k not in APPROXIMATE
    }
    assert ours["mAP"] == pytest.approx(exact["mAP"], abs=1)  # 20 images: one tie in half precision moves a class
    assert (ours["protocol"].pop("ap_computed"), exact["protocol"].pop("ap_computed")) == (COUNTED, EXACT)
    assert ours["protocol"] | {"intervals": None} == exact["protocol"] | {"intervals": None}
    assert ours["stratified"] is None
    assert "eval.exact_pairs" in ours["stratified_why"]
    json.dumps(ours)


def test_the_size_decides_but_not_for_the_rules_of_an_original(tiny_data: Path, tiny_config: MakeConfig) -> None:
    part = whole(open_index(tiny_data / "val"))
    assert keeps_pairs(part, tiny_config())
    assert keeps_pairs(part, tiny_config(eval__exact_pairs=20 * CLASSES))
    assert not keeps_pairs(part, tiny_config(eval__exact_pairs=20 * CLASSES - 1))
    assert keeps_pairs(part, tiny_config(eval={"exact_pairs": 0, "compat": "csra"}))


@pytest.mark.parametrize("world", [2, 3, 8])
def test_any_number_of_ranks_gives_the_same_counts(world: int, tiny_data: Path, config: Config, tmp_path: Path) -> None:
    """20 images in 7 blocks of 3: ranks have more or fewer, and the eighth has none."""
    alone = run(Counts, tiny_data / "val", config, Group(ALONE, config.parallel))
    found = on_ranks(world, tmp_path, lambda group: run(Counts, tiny_data / "val", config, group), config)
    assert found[1:] == [None] * (world - 1)
    assert all(np.array_equal(a, b) for a, b in zip(found[0].counts.arrays, alone.counts.arrays))
    assert np.array_equal(found[0].head.logits_NC, alone.head.logits_NC)


@pytest.mark.parametrize("score", [Pairs, Counts])
@pytest.mark.parametrize("wrong", [[0, 1, 1], [0, 2, 1], [0, 1, 3]], ids=["twice", "in another order", "another"])
def test_an_image_that_is_missing_or_comes_twice_is_never_scored(
    wrong: list[int], score: Any, tiny_data: Path, config: Config
) -> None:
    part, group = whole(open_index(tiny_data / "val")), Group(ALONE, config.parallel)
    blocks = list(image_blocks(part, config, range(7)))
    blocks[0] = (*blocks[0][:3], torch.tensor(wrong))
    with pytest.raises(AssertionError, match="an image is missing or came twice"):
        collect(score(part, config), Predictor(predict, config, CPU, torch.float32), lambda _: iter(blocks), group)


@pytest.fixture(scope="module")
def runs(tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run that keeps every score, and one that counts."""
    folder = tmp_path_factory.mktemp("runs")
    for name, pairs in (("kept", 20 * CLASSES), ("counted", 0)):
        config = tiny_config(
            epochs=1, eval={"exact_pairs": pairs, "batch": 3, "masked": ["low"]}, log__images=8, log__pr_curves=True
        )
        assert train(config, folder / name) == 0
    return {name: folder / name for name in ("kept", "counted")}


def test_a_run_that_counts_scores_as_one_that_does_not(runs: dict[str, Path]) -> None:
    kept, counted = (json.loads((runs[name] / "result.json").read_text()) for name in ("kept", "counted"))
    for which in ("best", "last"):
        ours, exact = counted[which]["eval"], kept[which]["eval"]
        assert ours["protocol"]["ap_computed"] == ours["masked"]["low"]["protocol"]["ap_computed"] == COUNTED
        assert exact["protocol"]["ap_computed"] == EXACT
        for key in ("CP", "CR", "CF1", "OP", "OR", "OF1", "top3", "positives", "images", "labelled_pairs"):
            assert ours[key] == exact[key]
            assert ours["masked"]["low"][key] == exact["masked"]["low"][key]
        assert ours["mAP"] == pytest.approx(exact["mAP"], abs=1)
    rows = [[r for r in read_rows(run / "metrics.jsonl") if r["kind"] == "train"] for run in runs.values()]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


def test_eval_counts_unless_every_score_is_wanted(runs: dict[str, Path], tmp_path: Path) -> None:
    scores, predictions = tmp_path / "scores.json", tmp_path / "all.npz"
    assert main(["eval", str(runs["counted"]), "--json", str(scores)]) == 0
    counted = json.loads(scores.read_text())
    assert counted["protocol"]["ap_computed"] == COUNTED
    assert main(["eval", str(runs["counted"]), "--json", str(scores), "--predictions", str(predictions)]) == 0
    assert json.loads(scores.read_text())["protocol"]["ap_computed"] == EXACT
    with np.load(predictions) as arrays:
        assert arrays["logits"].shape == (20, CLASSES)
    stored = json.loads((runs["counted"] / "result.json").read_text())["best"]["eval"]
    assert counted["AP"] == stored["AP"]
