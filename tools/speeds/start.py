"""From a command to its first step, and what of it the same step by hand takes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from masksup.base.files import as_json
from masksup.data.shapes import prepare_shapes
from masksup.data.write_index import write_index
from tools.speeds.measured import Figure, Setting

# Prints the seconds and the processor seconds since torch was loaded, once the first step is done.
_OURS = """
import json, os, sys, time
import torch
began, used = time.perf_counter(), time.process_time()
from masksup.engine.step import Stepper
step = Stepper.step
def first(*args, **options):
    step(*args, **options)
    print(json.dumps([time.perf_counter() - began, time.process_time() - used]), flush=True)
    os._exit(0)
if sys.argv[1] == "first":
    Stepper.step = first
from masksup.cli import main
sys.exit(main(sys.argv[2:]))
"""
_BARE = """
import json, time
import torch
began, used = time.perf_counter(), time.process_time()
import timm, torchvision.transforms.v2
from torch.utils.tensorboard import SummaryWriter
torch.set_num_threads(1)
network = timm.create_model("test_resnet", num_classes=20)
optimizer = torch.optim.AdamW(network.parameters())
loss = torch.nn.functional.binary_cross_entropy_with_logits(network(torch.rand(16, 3, 96, 96)), torch.rand(16, 20))
loss.backward()
optimizer.step()
print(json.dumps([time.perf_counter() - began, time.process_time() - used]))
"""
_GOAL = 3.0  # s


def starting(setting: Setting) -> Iterator[Figure]:
    """Quickstart's network: `masksup train` of a new run and of one that goes on, from `import torch` to a step."""
    config = _config(setting.folder)
    found: dict[str, list[list[float]]] = {"new": [], "resumed": [], "bare": []}
    resumed = setting.folder / "resumed"
    _run(_OURS, "all", "train", str(config), "--run-dir", str(resumed), "epochs=1")
    (resumed / "result.json").unlink()
    _take_back(resumed)  # once: what is measured ends before it saves
    for number in range(setting.rounds):
        for name, folder, epochs in (("new", setting.folder / f"run {number}", 16), ("resumed", resumed, 1)):
            found[name].append(_run(_OURS, "first", "train", str(config), "--run-dir", str(folder), f"epochs={epochs}"))
        found["bare"].append(_run(_BARE))
    for at, clock in enumerate(("the clock", "processor time")):
        middle = {name: sorted(times)[len(times) // 2][at] for name, times in found.items()}
        for name in ("new", "resumed"):
            yield Figure(f"{name} run: from import torch to the first step, by {clock}", middle[name], "s",
                         ("at most", _GOAL), None, {"bare_seconds": round(middle["bare"], 2),
                         **({} if at else {"imports_milliseconds": _imports()})})  # fmt: skip


def _config(folder: Path) -> Path:
    for content in prepare_shapes(folder / "root", train=64, val=8, test=8, size=96, seed=0):
        write_index(folder / "shapes" / content.split, content)
    file = folder / "quickstart.json"
    file.write_text(as_json({
        "data": {"train": str(folder / "shapes" / "train"), "workers": 0}, "epochs": 16,
        "model": {"backbone": "test_resnet", "size": 96}, "batch": {"global": 32, "micro": 16},
        "optim": {"name": "adamw", "lr": 0.005}, "precision": {"threads": 1},
        "checkpoint": {"every_steps": 1, "keep": 9},
    }))  # fmt: skip
    return file


def _take_back(run: Path) -> None:
    """Remove the last checkpoint, so that the run has a step to do again."""
    shutil.rmtree(max((run / "checkpoints").glob("step-*")))


def _run(program: str, *words: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1]
    found: list[float] = json.loads(last) if last.startswith("[") else []
    return found


def _imports() -> dict[str, int]:
    """Milliseconds of the packages that take longest to import after torch, with what they import themselves."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import torch, masksup.training.train"],
        capture_output=True,
        text=True,
    )
    times: dict[str, int] = {}
    for line in done.stderr.partition("| torch\n")[2].splitlines():
        _, total, name = (part.strip() for part in line.removeprefix("import time:").split("|"))
        times[name] = int(total) // 1000
    wanted = (
        "torch._dynamo",
        "torchvision",
        "timm",
        "tensorboard",
        "masksup.config.schema",
        "rich",
        "scipy",
        "sklearn",
    )
    return {name: times[name] for name in wanted if name in times}
