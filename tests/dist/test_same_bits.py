"""`parallel.sum: tree`: any number of ranks, and any change of it, ends with the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from dist.engine_ranks import DEADLINE, Job, Result, launch, settings
from dist.test_exact import stop_at
from ranks import Launcher

from tools.same_run import differences

pytestmark = pytest.mark.timeout(2 * DEADLINE + 60)

VIT = {"backbone": "test_vit", "size": 32, "backbone_options": {"drop_path_rate": 0.2}, "head": {"name": "ml_decoder"}}
SGD = {"name": "sgd", "lr": 0.01, "momentum": 0.9}
CSI = {"backbone": "test_resnet", "size": 64, "head": {"name": "csi"}, "head_start": "random"}
CASES: dict[str, dict[str, Any]] = {
    "adamw, batch norm, dropout, clipped": {},
    "sgd, bf16, MCAR": {"optim": SGD, "precision__dtype": "bf16", "method": {"name": "mcar", "top": 2}},
    "fp16, MaskSup, stochastic depth": {
        "precision__dtype": "fp16", "model": VIT, "method": {"name": "masksup", "bank": 8}
    },
    "Puzzle-CAM": {"method": {"name": "puzzle"}, "model__size": 64, "batch__global": 12},
    "OASS, its teacher, CSI": {
        "optim": SGD, "model": CSI, "method": {"name": "oass", "patches": "teacher"}, "batch__global": 12
    },
    "checkpointing, sgd, channels first": {
        "optim": SGD, "model__grad_checkpointing": True, "precision__channels_last": False,
        "batch__global": 16,
    },
    "five micro-batches": {"batch__global": 20},
    "one micro-batch, fp16": {"batch__global": 4, "precision__dtype": "fp16"},
}  # fmt: skip
"""Of optimiser, precision, method, normalisation and micro-batches, each value with some of the others."""
UNUSED = "parameters without a gradient"
WORLDS = [5, *(pytest.param(world, marks=pytest.mark.slow) for world in (2, 3, 4, 8))]


def jobs() -> list[Job]:
    tree = {"parallel__static_graph": False}
    return [
        *(Job(name, settings(**changes), 2) for name, changes in CASES.items()),
        Job(UNUSED, settings(**tree), 2, unused=True),
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Result]]:
    return launch(1, jobs(), tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("world", WORLDS)
def test_any_number_of_ranks_has_the_bits_of_one_process(
    world: int, alone: dict[str, list[Result]], tmp_path: Path
) -> None:
    assert any(name.startswith("method/") for name in alone["OASS, its teacher, CSI"][0].tensors)
    for name, results in launch(world, jobs(), tmp_path).items():
        (one,) = alone[name]
        for rank, result in enumerate(results):
            assert result.norms == one.norms, f"{name}, rank {rank}"
            assert result.skipped == one.skipped
            assert result.meta == one.meta
            assert result.tensors.keys() == one.tensors.keys()
            unequal = [key for key, value in one.tensors.items() if not _same_bits(value, result.tensors[key])]
            assert unequal == [], f"{name}, rank {rank}"


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Also of the sign of zero, and in the same order in memory."""
    if one.shape != other.shape or one.stride() != other.stride() or one.dtype != other.dtype:
        return False
    return one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()


def test_a_parameter_that_never_has_a_gradient_is_left_as_it_is(alone: dict[str, list[Result]]) -> None:
    """AdamW would make it smaller for a gradient of zero."""
    (result,) = alone[UNUSED]
    assert torch.equal(result.tensors["model/head.never"], torch.ones(3))
    assert not [name for name in result.tensors if name.startswith("optim/") and name.endswith("never")]
    assert not torch.equal(result.tensors["model/head.at_times"], torch.zeros(3))


def test_a_run_whose_ranks_change_is_the_run_of_one_process(job: Launcher, write_config, tmp_path: Path) -> None:
    """4, then 2, then 3 ranks, with short last steps, a moving average, and evaluations between."""
    config = write_config(epochs=4, data__last_batch="partial")
    job.to_the_end(1, config, tmp_path / "one")
    for world, step in ((4, 3), (2, 9)):
        stop_at(job, world, config, tmp_path / "elastic", step)
    ranks = job.to_the_end(3, config, tmp_path / "elastic")
    assert "another order" not in ranks.text()
    assert differences(tmp_path / "one", tmp_path / "elastic") == []


def test_more_ranks_than_micro_batches_say_so_and_change_nothing(job: Launcher, write_config, tmp_path: Path) -> None:
    config = write_config(epochs=1, batch={"global": 16, "micro": 8})
    job.to_the_end(1, config, tmp_path / "one")
    ranks = job.to_the_end(3, config, tmp_path / "three")
    assert "fewer than the 3 ranks" in ranks.text()
    assert differences(tmp_path / "one", tmp_path / "three") == []
