"""CPU time, memory and file size of reports on many images: `python -m tools.benchmark_report [--images 40504]`.

Two small networks are trained and scored on an index of that size, whose rows share a few hundred small files; then
the report of one run and of both is made, each in a process of its own. With --folder the runs are kept, so that a
second call measures the reports alone.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from masksup.data.write_index import IndexContent, write_index

FILES, SIDE = 400, 48


def make_index(folder: Path, split: str, images: int, classes: int, seed: int) -> None:
    """Blurred noise, labelled by how it projects on a random direction a class: between 0.1 and 10 % of the images."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (FILES, 8, 8, 3), np.uint8)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).resize((SIDE, SIDE)).save(folder / f"{split}{number}.jpg")
    direction = np.random.default_rng(0).standard_normal((8 * 8 * 3, classes))
    file_N = np.arange(images) % FILES
    score_NC = (pictures.reshape(FILES, -1) / 255 - 0.5)[file_N] @ direction + rng.standard_normal((images, classes))
    share_C = np.geomspace(0.1, 0.001, classes)
    lowest_C = np.array([np.quantile(score_N, 1 - share) for score_N, share in zip(score_NC.T, share_C)])
    labels_NC = (score_NC >= lowest_C).astype(np.int8)
    rows, columns = np.nonzero(labels_NC == 1)
    content = IndexContent(
        root=folder, name="noise", split=split, classes=tuple(f"class{c}" for c in range(classes)), exif=False,
        note="synthetic", image_names=[f"{split}{number}.jpg" for number in file_N],
        ids=[f"{split}_{number:012d}" for number in range(images)], sizes_I2=np.full((images, 2), SIDE, np.int32),
        file_hash_I16=rng.integers(0, 256, (images, 16)).astype(np.uint8),
        sample_image_N=np.arange(images, dtype=np.int32), crop_N4=np.zeros((0, 4), np.float32), labels_NC=labels_NC,
        box_start_N1=np.searchsorted(rows, np.arange(images + 1)),
        boxes_M4=np.tile(np.array([0, 0, 9, 9], np.float32), (len(rows), 1)), box_class_M=columns.astype(np.int16),
        box_share_M=rng.choice(np.array([0.001, 0.01, 0.1], np.float32), len(rows)),
        box_flags_M=np.zeros(len(rows), np.uint8),
    )  # fmt: skip
    write_index(folder / split, content)


def make_runs(folder: Path, images: int, classes: int) -> list[Path]:
    """Two runs that differ in their seed, trained once."""
    runs = [folder / "a", folder / "b"]
    if all((run / "result.json").is_file() for run in runs):
        return runs
    for split, count, seed in (("train", 2000, 1), ("val", images, 2)):
        make_index(folder, split, count, classes, seed)
    config = {
        "epochs": 4, "data": {"train": str(folder / "train"), "eval": str(folder / "val"), "workers": 0},
        "model": {"backbone": "test_resnet", "size": 32}, "optim": {"name": "adamw", "lr": 0.005},
        "batch": {"global": 64}, "eval": {"batch": 128, "every_epochs": 4, "bootstrap": 0, "masked": ["low", "high"]},
        "precision": {"threads": 1}, "log": {"images": 0, "pr_curves": False},
    }  # fmt: skip
    (folder / "noise.yaml").write_text(yaml.safe_dump(config))
    for seed, run in enumerate(runs):
        measured(["train", str(folder / "noise.yaml"), f"seed={seed}", "--run-dir", str(run)])
    return runs


def measured(arguments: Sequence[str]) -> tuple[float, float]:
    """CPU seconds and peak resident MiB of one `masksup` command, which has to succeed."""
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-m", "masksup", *arguments], os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )  # fmt: skip
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"masksup {' '.join(arguments)}: failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40_504)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--folder", type=Path, help="where runs and reports are kept (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        one, two = map(str, make_runs(folder, args.images, args.classes))
        print(f"{args.images:,} images, {args.classes} classes:")
        for run in (one, two):
            shutil.rmtree(Path(run) / "report", ignore_errors=True)
        for title, arguments in (
            ("one run, images labelled", [one]), ("one run, logits kept", [one]),
            ("two runs, second labelled", [one, two]), ("two runs, logits kept", [one, two]),
            ("two runs, scored anew (--data)", [one, two, "--data", str(folder / "val")]),
        ):  # fmt: skip
            out = folder / "report.html"
            seconds, mib = measured(["report", *arguments, "--out", str(out)])
            size = out.stat().st_size / 1e6
            print(f"  {title:<32}{seconds:7.1f} s CPU   peak {mib:5.0f} MiB   HTML {size:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
