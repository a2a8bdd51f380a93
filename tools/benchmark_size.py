"""Very many classes and images: what preparing, opening, drawing, counting and showing take, in seconds and memory.

    .venv/bin/python -m tools.benchmark_size --classes 10000 --images 100000

The labels are synthetic, a few of each image, a few classes frequent and most rare; all images are one tiny picture
under many names. Every part is a process of its own, whose peak memory is stated; `--gib` ends one that goes beyond.
Scores are drawn up to the part `shown`; from there on a small network is trained for a few steps, and scored on SCORED
images, by the commands themselves.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import yaml
from PIL import Image

from masksup.base.files import as_json
from masksup.cli import main as masksup
from masksup.data.index import open_index
from masksup.data.prepare.assemble import RawSplit, Sample, assemble
from masksup.data.prepare.table import print_table
from masksup.data.sampler import class_balance
from masksup.data.split import Part
from masksup.data.write_index import write_index
from masksup.metrics.histogram import PairCounts, average_precision_of_counts
from masksup.metrics.tables import tables

LABELS = 5  # of an image
SCORED = 2_000  # images
STEPS = 5
_BATCH = 256


def drawn_labels(images: int, classes: int) -> np.ndarray:
    """The classes of each image, frequent ones first: int64 images x LABELS."""
    rng = np.random.default_rng(0)
    return np.minimum((classes * rng.random((images, LABELS)) ** 3).astype(np.int64), classes - 1)


def prepare(folder: Path, images: int, classes: int) -> None:
    (folder / "root").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "root/a.png")
    index(folder, "train", images, classes)
    index(folder, "val", min(images, SCORED), classes)


def index(folder: Path, split: str, images: int, classes: int) -> None:
    samples = []
    for number, class_L in enumerate(drawn_labels(images, classes)):
        labels_C = np.zeros(classes, np.int8)
        labels_C[class_L] = 1
        samples.append(Sample(str(number), "a.png", labels_C, f"image {number}"))
    names = tuple(f"class {c}" for c in range(classes))
    [content] = assemble(folder / "root", "many", [RawSplit(split, samples, "drawn")], names, skip_broken=False)
    write_index(folder / split, content)
    print_table([content])


def opening(folder: Path, images: int, classes: int) -> None:
    index = open_index(folder / "train")
    assert (len(index), len(index.classes)) == (images, classes)


def balanced(folder: Path, images: int, classes: int) -> None:
    part = Part(open_index(folder / "train"))
    assert part.count(1).sum() == sum(len(set(row)) for row in drawn_labels(images, classes).tolist())
    cumulative = class_balance(part.labels)
    assert np.isclose(cumulative[-1], (part.count(1) > 0).sum())


def counted(folder: Path, images: int, classes: int) -> None:
    """Counts of all pairs and AP of them; of at most SCORED images, as the rest takes time and no more memory."""
    index = open_index(folder / "train")
    rng, counts = np.random.default_rng(1), PairCounts(classes, 0.5, 3)
    scored = min(images, SCORED)
    for start in range(0, scored, _BATCH):
        labels_BC = np.asarray(index.labels_NC[start : min(start + _BATCH, scored)])
        logits_BC = rng.normal(-4, 1, labels_BC.shape).astype(np.float32) + 3 * labels_BC
        counts.add(logits_BC, labels_BC, np.zeros(len(labels_BC), bool))
    ap_C = average_precision_of_counts(counts, "area")
    assert np.isfinite(ap_C).sum() == (counts.positives_C > 0).sum()


def shown(folder: Path, _images: int, classes: int) -> None:
    """The tables of an evaluation."""
    names = open_index(folder / "train").classes
    zeros = dict.fromkeys(("CP", "CR", "CF1", "OP", "OR", "OF1", "mAP"), 0.0)
    summary = {
        **zeros, "top3": zeros, "AP": dict.fromkeys(names, 50.0), "positives": dict.fromkeys(names, 1),
        "protocol": {"threshold": 0.5},
    }  # fmt: skip
    assert max(len(table.rows) for table in tables(summary)) <= max(80, classes if classes < 300 else 0)


def train(folder: Path, images: int, _classes: int) -> None:
    """A few steps of balanced sampling, and the evaluation with TensorBoard."""
    config = {
        "epochs": STEPS * 32 / images, "batch": {"global": 32}, "precision": {"threads": 1},
        "data": {"train": str(folder / "train"), "eval": str(folder / "val"), "allow_leak": True, "balance": "class",
                 "workers": 0},
        "model": {"backbone": "test_resnet", "size": 32}, "optim": {"name": "adamw", "lr": 0.005},
        "eval": {"batch": 64, "bootstrap": 0},
    }  # fmt: skip
    (folder / "many.yaml").write_text(yaml.safe_dump(config))
    command("train", str(folder / "many.yaml"), "--run-dir", str(folder / "run"))


def thresholds(folder: Path, _images: int, _classes: int) -> None:
    command("calibrate", str(folder / "run"), "--bootstrap", "20")


def report(folder: Path, _images: int, _classes: int) -> None:
    command("report", str(folder / "run"), "--out", str(folder / "report.html"))


def command(*words: str) -> None:
    """One `masksup` command in this process, which has to succeed."""
    assert masksup(list(words)) == 0, f"masksup {' '.join(words)}: failed"


PARTS: tuple[Callable[[Path, int, int], None], ...] = (prepare, opening, balanced, counted, shown)
COMMANDS: tuple[Callable[[Path, int, int], None], ...] = (train, thresholds, report)


def measured(part: Callable[[Path, int, int], None], folder: Path, images: int, classes: int, gib: float) -> None:
    """In a process of its own: `part`, then its seconds and the peak of its own memory into a file.

    Pages of mapped files are left out: they are the kernel's to drop.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30), -1))
    began = perf_counter()
    part(folder, images, classes)
    status = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    peak = next((int(line.split()[1]) for line in status if line.startswith("VmHWM")), 0)
    mapped = next((int(line.split()[1]) for line in status if line.startswith("RssFile")), 0)
    facts = {"seconds": perf_counter() - began, "gib": peak / 2**20, "mapped_gib": mapped / 2**20}
    (folder / f"{part.__name__}.json").write_text(as_json(facts))


def measure(images: int, classes: int, gib: float) -> dict[str, dict[str, float]]:
    """Seconds and GiB of each part. RuntimeError where one of them fails."""
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in (*PARTS, *COMMANDS):
            process = multiprocessing.get_context("spawn").Process(
                target=measured, args=(part, folder, images, classes, gib)
            )
            process.start()
            process.join()
            if process.exitcode:
                raise RuntimeError(f"{part.__name__} of {classes} classes x {images} images failed within {gib} GiB")
            found[part.__name__] = json.loads((folder / f"{part.__name__}.json").read_text())
        columns = sum(file.stat().st_size for file in (folder / "train").iterdir())
    return {**found, "index": {"gib": columns / 2**30}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--gib", type=float, default=8.0, help="memory that no part may go beyond")
    args = parser.parse_args()
    found = measure(args.images, args.classes, args.gib)
    print(f"{args.classes:,} classes x {args.images:,} images; index on disk: {found.pop('index')['gib']:.2f} GiB")
    for name, facts in found.items():
        print(
            f"{name:<9}{facts['seconds']:8.1f} s  peak {facts['gib']:6.2f} GiB, {facts['mapped_gib']:.2f} of it mapped"
        )


if __name__ == "__main__":
    main()
