"""What only several GPUs show: their network, and how the step scales."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

from tools.gpu_checks.results import Row
from tools.gpu_checks.setting import Setting
from tools.gpu_checks.speed import NETWORKS

_FIGURES = {
    "over_bare_percent": r"trainer over bare DDP +(-?[\d.]+) %",
    "scaling_percent": r"scaling, trainer +([\d.]+) %",
    "scaling_of_bare_percent": r"scaling, bare loop +([\d.]+) %",
    "images_s": r"trainer's step, (?!1 )\d+ ranks +[\d.]+ ms a step +([\d.]+) images/s",
}


def network(setting: Setting) -> Iterator[Row]:
    """The launcher's own preflight, on all GPUs of this machine."""
    folder = setting.folder / "preflight"
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(setting.ranks)]
    subprocess.run([sys.executable, *launcher, "-m", "launch.start.preflight", str(folder)])
    report = json.loads((folder / "preflight.json").read_text())
    slowest = min((card["gib_per_second"] for card in report.get("cards", ())), default=None)
    yield {"what": "preflight", "passed": not report["bad"] and slowest is not None, "all_reduce_gib_s": slowest,
           "bad": report["bad"]}  # fmt: skip


def scaling(setting: Setting) -> Iterator[Row]:
    """The step of all ranks over that of one, beside a bare DDP loop."""
    for name, (backbone, small, size, _, batch) in list(NETWORKS.items())[: 1 if setting.tiny else 2]:
        words = [f"--ranks={setting.ranks}", "--scored=64", "--repeats=3", "--steps=2", "--threads=1"]
        words += [f"--backbone={small}", "--size=64", "--batch=4"] if setting.tiny else []
        words += [] if setting.tiny else [f"--backbone={backbone}", f"--size={size}", f"--batch={batch}"]
        done = subprocess.run([sys.executable, "-m", "tools.benchmark_step", *words], stdout=subprocess.PIPE, text=True)
        print(done.stdout)
        found = {key: re.search(pattern, done.stdout) for key, pattern in _FIGURES.items()}
        figures = {key: float(match[1]) for key, match in found.items() if match is not None}
        yield {"what": name, "passed": done.returncode == 0 and len(figures) == len(_FIGURES), **figures}
