"""When two runs are the same: every tensor, every number of the record, every score."""

from pathlib import Path

import torch

from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint
from masksup.runtime.metrics_rows import read_rows
from tools.same_run import differences


def final_state(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(list_checkpoints(run / "checkpoints")[0]).tensors


def numbers(run: Path) -> list[dict[str, object]]:
    return [row for row in read_rows(run / "metrics.jsonl") if row["kind"] not in ("event", "ranks")]


def assert_same_run(a: Path, b: Path) -> None:
    found = differences(a, b)
    assert found == [], "\n".join(found)
