"""The number of ranks changes nothing but the order of a sum; with the same number a run repeats bit by bit."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import assert_same_run, numbers
from ranks import IN_FLOAT64, Launcher
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from masksup.config.components import METHODS
from masksup.data.shapes import prepare_shapes
from masksup.data.write_index import write_index
from masksup.decisions.calibration import Temperature
from masksup.decisions.decisions import Decisions, Fitted, Origin, write_decisions
from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint
from masksup.runtime.metrics_rows import read_rows
from masksup.saved.open import open_trained
from tools.same_run import differences

# Of losses in float64: ten million times its rounding, so that no processor's order of sums comes near it in a hundred
# steps, and a thousandth of what one wrong weight of a sample would make.
ROUNDING = 1e-9
DEPTH_AND_MASKS: dict[str, object] = {
    "model__backbone": "test_vit", "model__backbone_options": {"drop_path_rate": 0.2},
    "method": {"name": "masksup", "bank": 8},
}  # fmt: skip

FP16_CLIPPED = {"precision": {"threads": 1, "dtype": "fp16"}, "optim": {"name": "sgd", "lr": 0.05, "clip": 1.0}}
LORA: dict[str, object] = {"model": {"backbone": "test_vit", "size": 32, "lora": {"rank": 4}}}


def losses(run: Path) -> list[float]:
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train"]
    return [row["loss"] for row in rows]


def stop_at(job: Launcher, world: int, config: Path, run: Path, step: int, probe: str = "") -> None:
    """Train until about `step` steps are done, then ask the last rank to stop."""
    ranks = job.train(world, config, run, probe=probe)
    ranks.until(lambda: len(losses(run)) >= step)
    ranks.signal(world - 1, signal.SIGTERM)
    assert ranks.wait() == [75] * world, ranks.text()


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)])
def test_r11_repeated_and_resumed_runs_are_bit_equal(world: int, job: Launcher, write_config, tmp_path: Path) -> None:
    """Under `parallel.sum: ring`, whose promise is of the same number of ranks; for the tree see test_same_bits.py."""
    config = write_config(data__workers=world % 2, epochs=4, parallel__sum="ring")
    job.to_the_end(world, config, tmp_path / "clean")
    job.to_the_end(world, config, tmp_path / "again")
    assert_same_run(tmp_path / "again", tmp_path / "clean")
    stop_at(job, world, config, tmp_path / "cut", 4)
    assert list_checkpoints(tmp_path / "cut" / "checkpoints")
    job.to_the_end(world, config, tmp_path / "cut")
    assert_same_run(tmp_path / "cut", tmp_path / "clean")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_r6_elastic_run_has_the_losses_of_one_process(job: Launcher, write_config, tmp_path: Path) -> None:
    """4 -> 2 -> 3 -> 4 -> 1 ranks, with batch norm and dropout; compared in the 20 steps after each change."""
    config = write_config(
        epochs=34, checkpoint={"every_steps": 5}, data__eval=None, optim__lr=0.0001, parallel__sum="ring"
    )
    job.to_the_end(1, config, tmp_path / "one", probe=IN_FLOAT64)
    run, stops = tmp_path / "elastic", [21, 42, 63, 84]
    for world, stop in zip((4, 2, 3, 4), stops):
        stop_at(job, world, config, run, stop, IN_FLOAT64)
    ranks = job.to_the_end(1, config, run, probe=IN_FLOAT64)
    assert "saved by 4 ranks" in ranks.text()
    one, elastic = losses(tmp_path / "one"), losses(run)
    assert len(one) == len(elastic) == 107
    assert elastic == pytest.approx(one, abs=ROUNDING)
    assert elastic != one  # another order of summation: otherwise this compares a run with itself
    learning_rates = [
        [row["learning_rate"] for row in numbers(r) if row["kind"] == "train"] for r in (run, tmp_path / "one")
    ]
    assert learning_rates[0] == learning_rates[1]
    averages, live = (moved(run, tmp_path / "one", part) for part in ("ema", "model"))
    apart = moved(run, run, "ema", "model")
    assert max(averages, live) * 20 < apart, "the average went on, it did not begin again from the live weights"


def moved(a: Path, b: Path, part: str, other: str | None = None) -> float:
    """The largest difference between the weights of two last checkpoints, or of their averages."""
    ours, theirs = (read_checkpoint(list_checkpoints(run / "checkpoints")[0]) for run in (a, b))
    left, right = ours.part(part), theirs.part(other or part)
    names = [name for name in left if name.endswith("weight")]
    assert names
    return max(float((left[name] - right[name]).abs().max()) for name in names)


def test_fewer_training_samples_than_ranks(job: Launcher, write_config, tmp_path: Path) -> None:
    """Three samples, four ranks: one micro-batch of 2 and one of 1, and two ranks that never have one."""
    for content in prepare_shapes(tmp_path / "root", train=3, val=2, test=1, size=32, seed=1):
        write_index(tmp_path / content.split, content)
    small = {"data__train": str(tmp_path / "train"), "data__eval": str(tmp_path / "val"), "data__last_batch": "partial"}
    config = write_config(**small, batch={"global": 8, "micro": 2}, epochs=3, optim__lr=0.0001, model__size=64)
    for world in (1, 4):
        job.to_the_end(world, config, tmp_path / str(world))
    assert len(losses(tmp_path / "1")) == 3
    assert differences(tmp_path / "1", tmp_path / "4") == []


def test_scores_of_a_checkpoint_are_equal_to_the_last_bit(job: Launcher, write_config, tmp_path: Path) -> None:
    config = write_config(data__test=None)
    job.to_the_end(2, config, tmp_path / "run")
    _decide(tmp_path / "run")
    found = []
    for world in (1, 2, 3, 4):
        files = tmp_path / f"{world}.json", tmp_path / f"{world}.npz"
        ranks = job.start(
            world, "eval", tmp_path / "run", "--json", files[0], "--predictions", files[1], "--masked", "low"
        )
        assert ranks.wait() == [0] * world, ranks.text()
        found.append((json.loads(files[0].read_text()), np.load(files[1])))
    for scores, predictions in found[1:]:
        assert scores == found[0][0]
        assert all(np.array_equal(predictions[key], found[0][1][key]) for key in predictions)
    assert len(set(found[0][1]["ids"].tolist())) == 20
    decided = found[0][0]["decided"]
    assert (decided["aim"], decided["calibration"]) == ("recall=0.8", "temperature")
    assert decided["labels"] > 0
    assert decided["OF1"] not in (None, found[0][0]["OF1"])


def _decide(run: Path) -> None:
    """Keep decisions with a run, as if they had been fitted to its weights."""
    trained = open_trained(run)
    thresholds = tuple(0.3 + 0.03 * c for c in range(len(trained.classes)))
    fitted = Fitted(trained.checkpoint, trained.sha256, trained.step, trained.weights, "val", "", 20, "by hand")
    origins: tuple[Origin, ...] = ("own",) * len(thresholds)
    write_decisions(run, Decisions(trained.classes, thresholds, Temperature(0.5), origins, "recall=0.8", fitted))


def test_live_scores_are_those_of_the_checkpoint(job: Launcher, write_config, tmp_path: Path) -> None:
    """Batch norm's statistics differ between ranks: scoring and saving take their mean alike."""
    config = write_config(ema={"decay": 0.0}, parallel__sum="ring")
    job.to_the_end(3, config, tmp_path / "run")
    told = EventAccumulator(str(tmp_path / "run")).Reload()
    paces = {name for name in told.Tags()["histograms"] if name.startswith("ranks/")}
    assert paces
    assert all(told.Histograms(name)[-1].histogram_value.num == 3 for name in paces), "one value a rank"
    state = read_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[0])
    name = next(name for name in state.tensors if name.startswith("ranks/0/model/") and name.endswith("running_mean"))
    of_ranks = [state.tensors[name.replace("ranks/0", f"ranks/{rank}")] for rank in range(3)]
    assert not torch.equal(of_ranks[0], of_ranks[1])
    mean = state.part("model")[name.removeprefix("ranks/0/model/")]
    assert torch.allclose(mean, torch.stack(of_ranks).mean(0), atol=1e-7)
    job.start(1, "eval", tmp_path / "run", "--json", tmp_path / "scores.json").wait()
    result = json.loads((tmp_path / "run" / "result.json").read_text())["best"]["eval"]
    assert json.loads((tmp_path / "scores.json").read_text())["AP"] == result["AP"]


@pytest.mark.parametrize(
    ("world", "overrides"),
    [
        (3, {"data__last_batch": "partial", "batch": {"global": 12, "micro": 4}}),  # 50 = 4 x 12 + 2: one micro-batch
        pytest.param(3, FP16_CLIPPED, marks=pytest.mark.slow),
        (2, {"model__frozen": True}),
        (3, {"parallel__compress": "bf16", "parallel__static_graph": False}),  # and therefore by the ring
        pytest.param(3, DEPTH_AND_MASKS, marks=pytest.mark.slow),  # short: test_same_bits.py
        pytest.param(2, LORA, marks=pytest.mark.slow),  # short: in one process, tests/test_lora.py
        *(
            pytest.param(2, {**LORA, "parallel": {"engine": "deepspeed", "zero_stage": stage}},
                         marks=[pytest.mark.slow, pytest.mark.timeout(900)])
            for stage in (1, 2)
        ),
        *(
            pytest.param(2, {**DEPTH_AND_MASKS, "parallel": {"engine": "deepspeed", "zero_stage": stage}},
                         marks=[pytest.mark.slow, pytest.mark.timeout(900)])
            for stage in (0, 1, 2, 3)
        ),
    ],
    ids=["short last steps", "fp16", "frozen", "compressed", "stochastic depth and masks",
         "lora", "lora, zero 1", "lora, zero 2",
         *(f"the same, zero {stage}" for stage in (0, 1, 2, 3))],
)  # fmt: skip
def test_resume_is_bit_equal_for(world, overrides, job: Launcher, write_config, tmp_path: Path) -> None:
    config = write_config(**overrides)
    job.to_the_end(world, config, tmp_path / "clean")
    stop_at(job, world, config, tmp_path / "cut", 3)
    job.to_the_end(world, config, tmp_path / "cut")
    assert_same_run(tmp_path / "cut", tmp_path / "clean")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_workers_do_not_matter_under_zero(stage: int, job: Launcher, write_config, tmp_path: Path) -> None:
    for workers in (0, 1, 4):
        config = write_config(data__workers=workers, parallel__engine="deepspeed", parallel__zero_stage=stage)
        job.to_the_end(2, config, tmp_path / str(workers))
    assert_same_run(tmp_path / "1", tmp_path / "0")
    assert_same_run(tmp_path / "4", tmp_path / "0")


def test_short_steps_weigh_every_sample_alike(job: Launcher, write_config, tmp_path: Path) -> None:
    """The last step of an epoch has one micro-batch of 2 samples: two of three ranks go through it with weight 0."""
    config = write_config(
        data__last_batch="partial", batch={"global": 12, "micro": 4}, data__eval=None, model__head={"name": "linear"},
        parallel__sum="ring",
    )  # fmt: skip
    for world in (1, 3):
        job.to_the_end(world, config, tmp_path / str(world), probe=IN_FLOAT64)
    assert losses(tmp_path / "3") == pytest.approx(losses(tmp_path / "1"), abs=ROUNDING)
    assert moved(tmp_path / "3", tmp_path / "1", "model") < 1e-6, "AdamW makes more of a gradient near zero"


def test_fewer_samples_than_ranks_to_score(job: Launcher, write_config, tiny_data: Path, tmp_path: Path) -> None:
    config = write_config(epochs=0.6, eval__batch=32)  # one block of 20 samples: three ranks have none
    job.to_the_end(4, config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["last"]["eval"]["mAP"] > 0


@pytest.mark.parametrize(
    "name",  # short: the steps of the others are in test_same_bits.py
    [pytest.param(name, marks=[] if name in ("baseline", "masksup") else pytest.mark.slow) for name in METHODS.entries],
)
def test_every_method_trains_on_two_ranks_as_on_one(name: str, job: Launcher, write_config, tmp_path: Path) -> None:
    config = write_config(method={"name": name}, model__size=64, data__eval=None, epochs=1)
    for world in (1, 2):
        job.to_the_end(world, config, tmp_path / str(world))
    assert len(losses(tmp_path / "2")) == 4
    assert differences(tmp_path / "1", tmp_path / "2") == []
