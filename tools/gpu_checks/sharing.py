"""Two ranks on one GPU: over gloo they train to the losses of one rank; over NCCL they end in one line."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.gpu_checks import runs
from tools.gpu_checks.results import Row
from tools.gpu_checks.setting import Setting

MOST = 1e-3
"""Largest relative difference of a loss: the same micro-batches in fp32, summed in another order for some steps."""


def run(setting: Setting) -> Iterator[Row]:
    data = runs.synthetic_data(setting, 64, 64)
    one = _train(setting, data, "auto", ranks=1)
    yield {"what": "one rank", "passed": one["status"] == 0, **one}
    gloo = _train(setting, data, "gloo")
    off = max((abs(a - b) / abs(a) for a, b in zip(one["losses"], gloo["losses"])), default=None)
    yield {"what": "gloo", "passed": off is not None and gloo["status"] == 0 and off <= MOST, "losses_off": off, **gloo}
    if setting.tiny:
        return
    nccl = _train(setting, data, "nccl")
    yield {"what": "NCCL", "passed": nccl["status"] != 0 and "found one GPU" in nccl["said"], **nccl}
    told = _train(setting, data, "nccl", NCCL_MULTI_RANK_GPU_ENABLE="1")  # NCCL has it from 2.30 on
    yield {"what": "NCCL, told to share", "works": told["status"] == 0, **told}


def _train(setting: Setting, data: Path, backend: str, ranks: int = 2, **env: str) -> dict[str, Any]:
    """Exit status of a short run, losses, and a line of what it said."""
    name = f"{backend}-{ranks}-{len(env)}"
    precision = {"device": setting.device.type, "threads": 1, "dtype": "fp32"}
    config = runs.write_config(setting, name, data, epochs=1, precision=precision, parallel={"backend": backend})
    log, run = setting.folder / f"{name}.log", setting.folder / name
    with log.open("w") as out:
        env = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0], **env}
        status = runs.start(config, run, out, ranks, env).wait()
    told = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("masksup:")]
    return {"status": status, "losses": runs.losses(run), "said": told[0] if told else runs.last_line(log)}
