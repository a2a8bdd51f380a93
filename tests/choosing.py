"""Small searches of `masksup auto`, and what they have chosen."""

import json
from pathlib import Path
from typing import Any

from masksup.cli import main

SMALL = ["--backbone", "test_resnet", "--weights", "none", "--size", "32", "--folds", "2"]
QUICK = ["precision.threads=1", "data.workers=0", "log.images=0"]


def auto(data: Path, out: Path, *more: str) -> int:
    return main(["auto", "--data", str(data / "train"), "--out", str(out), *SMALL, *QUICK, *more])


def choices(out: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((out / "choices.json").read_text())
    return tree
