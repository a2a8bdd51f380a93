"""Training images per second and core: image files, shards of them, of their pixels and of smaller JPEGs, side by side.

    python -m tools.benchmark_shards data/coco2014/train [--size 448] [--quality 90] [--short-side 512] [--rounds 5]

Packs the index three times into a temporary folder. Then the loader of a training, in this process with one thread,
takes the same samples from each: it reads, decodes, cuts, flips and resizes them. Rounds alternate; the medians are
compared.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.data.index import Index, open_index
from masksup.data.loader import train_loader
from masksup.data.reencode import Reencoding
from masksup.data.split import make_plan, train_dataset, whole
from masksup.data.write_shards import pack_index

BATCH, STEPS = 64, 4


def main() -> None:
    """Print the images per second of each form, and what they are of those of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, help="an index of image files, with at least 64 samples")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--short-side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        files, place, how = open_index(args.index), Path(temporary), Reencoding(args.quality, args.short_side)
        forms = {
            "files": files,
            "shards": pack_index(files, place / "shards", 1 << 30, lambda _: None),
            "shards, raw": pack_index(files, place / "raw", 1 << 30, lambda _: None, Reencoding(None)),
            f"shards, q{how.quality}, {how.short_side} px": pack_index(
                files, place / "small", 1 << 30, lambda _: None, how
            ),
        }
        rates: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(args.rounds):
            for name, index in forms.items():
                rates[name].append(_rate(index, args.size))
        for name, found in rates.items():
            ratio = statistics.median(found) / statistics.median(rates["files"])
            size = (int(forms[name].sizes_I2[:, 0].mean()), int(forms[name].sizes_I2[:, 1].mean()))
            print(
                f"{name:24} {statistics.median(found):7.1f} images/s ({min(found):.1f} to {max(found):.1f})  "
                f"{ratio:.2f} x files  mean {size[0]} x {size[1]} px"
            )


def _rate(index: Index, size: int) -> float:
    config: Config = validate(
        {
            "data": {"train": str(index.folder)}, "model": {"backbone": "resnet18", "size": size},
            "batch": {"global": BATCH, "micro": BATCH}, "epochs": 1000,
        },
        "benchmark",
    )  # fmt: skip
    plan = make_plan(config, whole(index))
    batches = train_loader(train_dataset(config, whole(index), plan), 0, 0)
    began = time.perf_counter()
    for _ in range(STEPS):
        next(batches)
    return BATCH * STEPS / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
