"""Runs of the real command: started, killed and compared, on as many ranks as are asked for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from safetensors.torch import load_file

from masksup.runtime.checkpoint import TENSORS, list_checkpoints
from masksup.runtime.metrics_rows import read_rows
from tools.gpu_checks.setting import Setting


def synthetic_data(setting: Setting, train: int, size: int) -> Path:
    """Indexes `train` and `val` of synthetic shapes, by the real command."""
    out = setting.folder / f"shapes-{train}-{size}"
    words = ["prepare", "shapes", "--root", f"{out}.root", "--out", str(out), "--size", str(size)]
    words += ["--train", str(train), "--val", "32", "--test", "8"]
    subprocess.run([sys.executable, "-m", "masksup", *words], check=True, stdout=subprocess.DEVNULL)
    return out


def write_config(setting: Setting, name: str, data: Path, **keys: Any) -> Path:
    """A configuration file of a short run with all that has a state: MaskSup, AdamW, EMA, two micro-batches a rank."""
    tree: dict[str, Any] = {
        "epochs": 16 if setting.tiny else 4,  # 64 steps, so that a kill comes before the end
        "data": {"train": str(data / "train"), "eval": str(data / "val"), "workers": 1},
        "model": {"backbone": "test_resnet" if setting.tiny else "resnet18", "size": 64, "head": {"name": "csra"}},
        "method": {"name": "masksup", "bank": 50}, "optim": {"name": "adamw", "lr": 1e-3, "clip": 1.0},
        "ema": {"decay": 0.99}, "batch": {"global": 16, "micro": 8 if setting.ranks <= 2 else 2},
        "precision": {"device": setting.device.type, "threads": 1},
        "checkpoint": {"every_steps": 8, "keep": 99},
        "log": {"every_steps": 1, "images": 0, "pr_curves": False, "plots": False},
        "eval": {"bootstrap": 0, "every_epochs": 16.0},
        **keys,
    }  # fmt: skip
    file = setting.folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def start(
    config: Path, run: Path, log: IO[str], ranks: int = 1, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """`masksup train`, alone or under torchrun, in the process group of the step."""
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "masksup", "train", str(config), "--run-dir", str(run)], text=True,
        stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )  # fmt: skip


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a run: its launcher and its ranks."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:  # it has ended
        children = []
    process.send_signal(signal.SIGKILL)
    process.wait()
    for child in map(int, children):
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_for_checkpoints(process: subprocess.Popen[str], run: Path, least: int, seconds: float) -> None:
    """Until a run has so many, or has ended."""
    end = time.monotonic() + seconds
    while process.poll() is None and len(list_checkpoints(run / "checkpoints")) < least and time.monotonic() < end:
        time.sleep(0.02)


def unequal(run: Path, other: Path) -> tuple[int, list[str]]:
    """How many tensors the last checkpoints of two runs have, and which of them are not bit-equal."""
    newest = [list_checkpoints(folder / "checkpoints")[0] for folder in (run, other)]
    if newest[0].name.split("-a")[0] != newest[1].name.split("-a")[0]:
        return 0, [f"found {newest[0].name} and {newest[1].name}"]
    a, b = (load_file(checkpoint / TENSORS) for checkpoint in newest)
    return len(a), [
        name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])
    ]


def losses(run: Path) -> list[float]:
    """The loss of each step."""
    return [row["loss"] for row in read_rows(run / "metrics.jsonl") if row["kind"] == "train"]


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
