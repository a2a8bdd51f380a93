"""Fine-tuning on photographs, beside lightly-train: two whole commands, images a second and processor time an image.

    python -m tools.benchmark_lightly data/coco_small/train --python OTHER/bin/python [--rounds 5]

OTHER is an environment with lightly-train. Both fine-tune the same network from random weights: batches of 16, AdamW,
fp32, one thread and one loader process, random parts of an image and flips, no colours changed. Each command runs with
few and with many steps in turn, and the difference is the training by itself: imports, the index and the last
evaluation are in both. The medians of the rounds are compared. lightly-train leaves out images without a label, so they
are left out of both.
"""

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from masksup.base.files import as_json
from masksup.data.index import Index, open_index

BATCH, EPOCHS = 16, (1, 5)
THEIRS = """
import json, sys
import lightly_train
settings = json.load(open(sys.argv[1]))
settings["data"]["classes"] = dict(enumerate(settings["data"]["classes"]))
lightly_train.train_image_classification(**settings)
"""


class Spent(NamedTuple):
    """Seconds by the clock, and of the processor in the command and its loader."""

    clock: float
    cpu: float


def main() -> None:
    """Print images a second and processor seconds an image of both, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, help="an index of image files, with at least 16 samples")
    parser.add_argument("--python", required=True, metavar="FILE", help="python of an environment with lightly-train")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = _write_csv(open_index(args.index), folder / "train.csv")
        steps = images // BATCH
        prepare = [
            "prepare",
            "csv",
            "--csv",
            folder / "train.csv",
            "--root",
            "/",
            "--separator",
            ",",
            "--out",
            folder / "data",
        ]
        _run([sys.executable, "-m", "masksup", *prepare])
        found: dict[str, list[Spent]] = {"masksup": [], "lightly-train": []}
        for number in range(args.rounds):
            for name, start in (("masksup", _ours), ("lightly-train", _theirs)):
                few, many = (start(args, folder, epochs, f"{number}-{epochs}") for epochs in EPOCHS)
                trained = (EPOCHS[1] - EPOCHS[0]) * steps * BATCH
                found[name].append(Spent((many.clock - few.clock) / trained, (many.cpu - few.cpu) / trained))
                clock, cpu = (1000 * seconds for seconds in found[name][-1])
                print(f"{name}: {clock:.1f} ms an image, {cpu:.1f} of the processor", flush=True)
    for which, words in enumerate(("by the clock", "by processor time")):
        ours, theirs = (statistics.median(spent[which] for spent in found[name]) for name in found)
        print(f"{words}: masksup {1 / ours:.1f}, lightly-train {1 / theirs:.1f} images/s: {theirs / ours:.3f} x")


def _write_csv(index: Index, file: Path) -> int:
    rows = [
        (index.path(sample), ",".join(index.classes[c] for c, label in enumerate(labels) if label == 1))
        for sample, labels in enumerate(index.labels_NC[:])
    ]
    labelled = [row for row in rows if row[1]]
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("image_path", "label"), *labelled])
    return len(labelled)


def _ours(args: argparse.Namespace, folder: Path, epochs: int, name: str) -> Spent:
    (index,) = map(str, (folder / "data").iterdir())
    config = folder / f"ours-{name}.yaml"
    config.write_text(as_json({
        "epochs": epochs, "data": {"train": index, "workers": 1}, "precision": {"threads": 1},
        "model": {"backbone": args.backbone}, "batch": {"global": BATCH}, "optim": {"name": "adamw", "lr": 1e-4},
        "augment": {"crop": "random_resized", "scale": [0.08, 1.0]}, "eval": {"every_epochs": 1000},
    }))  # fmt: skip
    return _run([sys.executable, "-m", "masksup", "train", config, "--run-dir", folder / f"ours-{name}"])


def _theirs(args: argparse.Namespace, folder: Path, epochs: int, name: str) -> Spent:
    (index,) = (folder / "data").iterdir()
    settings, csv_file = folder / f"theirs-{name}.json", str(folder / "train.csv")
    labelled = open_index(index)
    steps = epochs * (len(labelled) // BATCH)
    settings.write_text(as_json({
        "out": str(folder / f"theirs-{name}"), "model": f"timm/{args.backbone}", "steps": steps, "batch_size": BATCH,
        "data": {"train": csv_file, "val": csv_file, "classes": labelled.classes},
        "classification_task": "multilabel", "num_workers": 1, "accelerator": "cpu", "devices": 1,
        "precision": "32-true", "model_args": {"backbone_args": {"pretrained": False}},
        "logger_args": {"val_every_num_steps": steps}, "save_checkpoint_args": {"save_every_num_steps": steps},
        "transform_args": {"color_jitter": None, "image_size": [224, 224]},
    }))  # fmt: skip
    script = folder / "theirs.py"
    script.write_text(THEIRS)
    return _run([args.python, str(script), str(settings)])


def _run(words: list[object]) -> Spent:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True, check=False)
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: status {done.returncode}\n{done.stderr[-2000:]}")
    return Spent(clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


if __name__ == "__main__":
    main()
