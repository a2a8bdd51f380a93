"""DDP and ZeRO 0 to 3 beside a bare DDP loop, by the benchmark of the engines: losses, resume, time, memory."""

import json
import subprocess
import sys
from collections.abc import Iterator

from tools.gpu_checks.results import Row
from tools.gpu_checks.setting import Setting

MOST = 1e-4
"""Largest relative difference of a loss from that of one process."""


def ddp(setting: Setting) -> Iterator[Row]:
    yield from _measure(setting, ["--stages"])


def zero(setting: Setting) -> Iterator[Row]:
    yield from _measure(setting, ["--without-ddp", "--stages", *(["2"] if setting.tiny else ["0", "1", "2", "3"])])


def _measure(setting: Setting, which: list[str]) -> Iterator[Row]:
    file = setting.folder / "engines.jsonl"
    file.unlink(missing_ok=True)
    micro_batches = setting.ranks * -(-4 // setting.ranks)  # of a step: as many on each rank
    words = [
        "--ranks",
        str(setting.ranks),
        "--micro-batches",
        str(micro_batches),
        "--repeats",
        "3",
        "--json",
        str(file),
    ]
    words += ["--steps", "4", "--backbone", "test_resnet"] if setting.tiny else ["--steps", "10"]
    done = subprocess.run([sys.executable, "-m", "tools.benchmark_engines", *words, *which])
    for line in file.read_text().splitlines() if file.exists() else ():
        row = json.loads(line)
        yield {
            "what": row["engine"], "passed": row["equal"] and row["difference"] <= MOST,
            "losses_off": row["difference"], "resume_bit_equal": row["equal"], "over_bare": row["ratio"],
            "memory_mb": row["memory"],
        }  # fmt: skip
    if done.returncode:
        raise SystemExit(done.returncode)
