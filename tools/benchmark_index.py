"""How long an index takes to open: `python -m tools.benchmark_index [--images 80000] [--boxes 3] [--classes 80]`.

Writes an index of that size to a temporary folder and opens it again and again (warm: its pages are cached), which
compares all columns with their hash.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from masksup.data.index import open_index
from masksup.data.write_index import IndexContent, write_index


def make_content(root: Path, images: int, boxes: int, classes: int) -> IndexContent:
    """An index of random content."""
    rng = np.random.default_rng(0)
    total = images * boxes
    return IndexContent(
        root=root, name="benchmark", split="train", classes=tuple(f"class{k}" for k in range(classes)), exif=False,
        note="", image_names=[f"images/train2014/COCO_train2014_{k:012d}.jpg" for k in range(images)],
        ids=[f"COCO_train2014_{k:012d}" for k in range(images)], sizes_I2=np.full((images, 2), 640, np.int32),
        file_hash_I16=rng.integers(0, 256, (images, 16)).astype(np.uint8),
        sample_image_N=np.arange(images, dtype=np.int32), crop_N4=np.zeros((0, 4), np.float32),
        labels_NC=rng.integers(0, 2, (images, classes)).astype(np.int8),
        box_start_N1=np.arange(images + 1, dtype=np.int64) * boxes,
        boxes_M4=rng.random((total, 4)).astype(np.float32),
        box_class_M=rng.integers(0, classes, total).astype(np.int16),
        box_share_M=rng.random(total).astype(np.float32), box_flags_M=np.zeros(total, np.uint8),
    )  # fmt: skip


def seconds_to_open(folder: Path, repeats: int) -> list[float]:
    """Seconds of each of `repeats` openings, the first sample's path and boxes included."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        index = open_index(folder)
        index.path(0)
        index.boxes(0)
        times.append(perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=80_000)
    parser.add_argument("--boxes", type=int, default=3, help="of each image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "train"
        content = make_content(Path(temporary), args.images, args.boxes, args.classes)
        start = perf_counter()
        write_index(folder, content)
        written = perf_counter() - start
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        times = seconds_to_open(folder, args.repeats)
    print(f"{args.images:,} images, {args.boxes} boxes each: {megabytes:.1f} MB, written in {written:.2f} s")
    print(f"opened {args.repeats} times: median {median(times) * 1e3:.2f} ms, slowest {max(times) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
