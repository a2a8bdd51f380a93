"""However a network starts and whatever of it is trained: the run resumes to the last bit, and can be taken away."""

import json
from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_same_run, final_state
from pretrained import BACKBONE, LINEAR_BACKBONE, write_weights

from masksup.cli import main
from masksup.config.components import HEADS
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.exits import STOPPED
from masksup.inference import command
from masksup.training.train import train

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Row = dict[str, str]
FACTORS = {
    "head": list(HEADS.entries),
    "start": ["prior", "random"],
    "norm": ["batch", "frozen"],
    "trained": ["full", "lora", "frozen"],
}
NARROW = {"ml_decoder": {"embedding": 16, "feedforward": 16}, "query2label": {"embedding": 16, "feedforward": 16}}


def parts(row: Row) -> set[Any]:
    """Each pair of its values."""
    return set(combinations(row.items(), 2))


def cover(rows: list[Row]) -> Iterator[Row]:
    """A few of the rows that have all parts that any of them has: the greedy choice."""
    missing = set().union(*map(parts, rows))
    while missing:
        best = max(rows, key=lambda row: len(parts(row) & missing))
        missing -= parts(best)
        yield best


def title(row: Row) -> str:
    return "-".join(row.values())


PRODUCT = [dict(zip(FACTORS, values)) for values in product(*FACTORS.values())]
POSSIBLE = [
    row for row in PRODUCT
    if (row["head"], row["start"]) != ("csi", "prior")  # refused: csi cuts by class maps, which a prior makes alike
    and (row["trained"], row["norm"]) != ("lora", "batch")  # refused: LoRA leaves the backbone as it is
]  # fmt: skip
SHORT = list(cover(POSSIBLE))


def test_the_short_form_has_every_pair_of_values_that_is_possible() -> None:
    assert set().union(*map(parts, SHORT)) == set().union(*map(parts, POSSIBLE))
    assert len(SHORT) == len(FACTORS["head"]) * len(FACTORS["trained"]), "the fewest that can, as rows cost seconds"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By the name of the network: one for LoRA, which needs linear layers beside batch norm, and one for the rest."""
    folder = tmp_path_factory.mktemp("weights")
    return {name: write_weights(folder / f"{name}.pth", name) for name in (BACKBONE, LINEAR_BACKBONE)}


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=title(row), marks=[] if row in SHORT else pytest.mark.slow) for row in POSSIBLE],
)
def test_it_resumes_and_can_be_taken_away(
    row: Row, tiny_config: Callable[..., Config], tiny_data: Path, weights: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    adapted = row["trained"] == "lora"
    backbone = LINEAR_BACKBONE if adapted else BACKBONE
    model = {
        "backbone": backbone, "size": 32, "weights": str(weights[backbone]), "head_start": row["start"],
        "batchnorm": row["norm"], "head": {"name": row["head"], **NARROW.get(row["head"], {})},
        "frozen": row["trained"] == "frozen", "lora": {"rank": 2 if adapted else 0},
    }  # fmt: skip
    config = tiny_config(model=model, epochs=0.75, eval={"bootstrap": 0})
    clean, cut = tmp_path / "clean", tmp_path / "cut"
    assert train(config, clean) == 0
    calls = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr("masksup.training.train.stop_requested", lambda: "SIGTERM" if next(calls) >= 2 else None)
        assert train(config, cut) == STOPPED
    assert train(config, cut) == 0
    assert_same_run(cut, clean)
    _refuse_other_state(row, final_state(clean), torch.load(weights[backbone], weights_only=True))

    index = open_index(tiny_data / "test")
    images, archive, onnx = [str(index.path(i)) for i in range(3)], tmp_path / "model.zip", tmp_path / "model.onnx"
    assert main(["pack", str(cut), "--out", str(archive)]) == 0
    assert main(["export", str(cut), "--out", str(onnx)]) == 0, "its outputs are compared with those of the run"
    assert main(["predict", str(cut), *images, "--out", str(tmp_path / "run.json")]) == 0
    assert main(["predict", str(archive), *images, "--out", str(tmp_path / "archive.json")]) == 0
    assert command.main([str(onnx), *images, "--out", str(tmp_path / "onnx.json")]) == 0
    ours, packed, exported = (scores(tmp_path / f"{name}.json") for name in ("run", "archive", "onnx"))
    assert packed == ours
    for one, other in zip(exported, ours, strict=True):
        assert one == pytest.approx(other, abs=0.02), "which decodes a JPEG a little otherwise"


def scores(file: Path) -> list[dict[str, float]]:
    return [image["scores"] for image in json.loads(file.read_text())["images"]]


def _refuse_other_state(row: Row, state: dict[str, torch.Tensor], begun: dict[str, torch.Tensor]) -> None:
    """AssertionError unless the run has the parameters and kept the statistics that its settings say."""
    assert ("model/head.class_bias" in state) == (row["head"] == "csra" and row["start"] == "prior")
    adapted = row["trained"] == "lora"
    names = {name: f"model/backbone.model.{name}" for name in begun}
    added = [value for name, value in state.items() if name.startswith("model/") and name.endswith(".lora_b")]
    assert bool(added) == adapted
    assert all(value.any() for value in added), "which begin at zero"
    assert all((name in state) != adapted for name in names.values()), "with LoRA they are kept once, beside"
    moved = {name.rpartition(".")[2] for name, value in begun.items()
             if not adapted and not torch.equal(state[names[name]], value)}  # fmt: skip
    assert ("weight" in moved) == (row["trained"] == "full")
    assert ("running_mean" in moved) == (row["trained"] == "full" and row["norm"] == "batch")
