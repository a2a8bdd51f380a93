"""When two runs are the same: every tensor, every number of the record, every score."""

import json
from pathlib import Path

import torch

from masksup.runtime.checkpoint import list_checkpoints, read_checkpoint
from masksup.runtime.metrics_log import read_rows

TIMED = {
    "images_per_second", "step_seconds", "data_wait_seconds", "data_wait_share", "data_wait_straggler", "memory_mib",
}  # fmt: skip


def final_state(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(list_checkpoints(run / "checkpoints")[0]).tensors


def numbers(run: Path) -> list[dict[str, object]]:
    rows = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] not in ("event", "ranks")]
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows]


def assert_same_run(a: Path, b: Path) -> None:
    left, right = final_state(a), final_state(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert numbers(a) == numbers(b)
    results = [json.loads((run / "result.json").read_text()) for run in (a, b)]
    assert results[0]["history"] == results[1]["history"]
    assert results[0]["best"]["eval"]["AP"] == results[1]["best"]["eval"]["AP"]
