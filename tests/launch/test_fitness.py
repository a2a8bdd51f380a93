"""Preflight names the bad node, and only that."""

from typing import Any

import pytest

from launch.start.fitness import RankReport, problems, shared_mistake


def cards(**of_the_third: Any) -> list[RankReport]:
    found = [
        RankReport(k, f"n{k + 1}", 1000.0, asked_gpus=4, gpus=4, driver="570", nccl="2.27", disk_mib_per_second=400.0,
             free_gib=50.0)
        for k in range(4)
    ]  # fmt: skip
    for key, value in of_the_third.items():
        setattr(found[2], key, value)
    return found


def test_nodes_that_are_alike_are_fit() -> None:
    assert problems(cards()) == {}
    assert problems([RankReport(0, "n1", 5.0)]) == {}, "a CPU node without any GPU"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpus": 3}, "GPUs: found 3, SLURM gave 4"),
        ({"driver": "565"}, "driver: found 565, the others have 570"),
        ({"gpu_problem": "CUDA error: unknown error"}, "GPUs do not answer: CUDA error: unknown error"),
        ({"nccl": "2.20"}, "nccl"),
        ({"busy_mib": 30000.0}, "30000 MiB in use by others"),
        ({"clock": 1009.5}, "clock: +9.5 s off"),
        ({"disk_mib_per_second": 50.0}, "disk: 50 MiB/s, the others 400"),
        ({"disk_problem": "/x: Read-only file system"}, "Read-only"),
        ({"free_gib": 0.2}, "0.2 GiB free"),
        ({"data_problem": "data/x: no such index"}, "no such index"),
    ],
)
def test_the_odd_one_is_named(wrong: dict[str, Any], said: str) -> None:
    found = problems(cards(**wrong))
    assert list(found) == ["n3"]
    assert any(said in text for text in found["n3"])


def test_what_all_nodes_cannot_read_is_no_nodes_fault() -> None:
    nowhere = [RankReport(k, f"n{k // 2}", 1.0, data_problem=None if k % 2 else "x: no such index") for k in range(4)]
    assert shared_mistake(nowhere) == "data: x: no such index, on all of 2 nodes"
    assert shared_mistake([RankReport(k, f"n{k}", 1.0, disk_problem="/x: No space left") for k in range(3)]) is not None
    assert shared_mistake(cards(data_problem="x: no such index")) is None, "one of four"
    assert shared_mistake([RankReport(k, f"n{k}", 1.0, data_problem=f"{k}") for k in range(2)]) is None, "not the same"
    assert shared_mistake(nowhere[:2]) is None, "a single node may be to blame"
