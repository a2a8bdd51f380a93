"""Training images per second and core: this loader against PIL + torchvision's v1 transforms, side by side.

    python -m tools.benchmark_loader FOLDER_OF_JPEGS [--size 448] [--rounds 7]

Both decode the same files, take a random resized crop (scale 0.7 to 1), flip, resize to size x size (bilinear) and
stack batches of 16, in this process with one thread. The baseline ends in normalised floats, as those pipelines do;
ours ends in uint8, because it is the device that normalises. The baseline that stops before the conversion to floats
is measured as well, so that both parts of the gain can be seen, and so is our loader where torchvision decodes in the
place of simplejpeg. Rounds alternate; the medians are compared.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as v1

from masksup.base.random import draws
from masksup.config.schema import Augment
from masksup.data import decode_jpeg
from masksup.data.decode import decode
from masksup.data.transforms import train_transform

BATCH = 16
SCALE = (0.7, 1.0)


def main() -> None:
    """Time the variants in turns and print images/s with the ratio to ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    files = sorted(arguments.folder.glob("*.jpg"))[: BATCH * 4]
    if not files:
        parser.error(f"{arguments.folder}: found no .jpg files")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)
    variants = {
        "masksup": ours(arguments.size),
        "masksup, by torchvision": by_torchvision(ours(arguments.size)),
        "PIL + torchvision v1": baseline(arguments.size, floats=True),
        "the same, without floats": baseline(arguments.size, floats=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(arguments.rounds + 1):
        for name, load in variants.items():
            taken = timed(load, files)
            if round_number:  # the first warms the file cache
                seconds[name].append(taken)
    fastest = statistics.median(seconds["masksup"])
    print(f"{len(files)} files, {arguments.size} px, torch {torch.__version__}, one thread, CPU time")
    for name, taken_each in seconds.items():
        median = statistics.median(taken_each)
        print(f"{name:26s} {len(files) / median:8.1f} images/s   masksup is {median / fastest:.2f}x as fast")


def timed(load: Callable[[list[Path]], Tensor], files: list[Path]) -> float:
    """CPU seconds of this process for one pass: unlike wall time, not disturbed by its neighbours."""
    began = time.process_time()
    for start in range(0, len(files), BATCH):
        load(files[start : start + BATCH])
    return time.process_time() - began


def ours(size: int) -> Callable[[list[Path]], Tensor]:
    """Batches B3SS of uint8 as the training loader makes them."""
    transform = train_transform(Augment(crop="random_resized", scale=SCALE), size)

    def load(files: list[Path]) -> Tensor:
        images = []
        for position, file in enumerate(files):
            image = decode(file, exif=False, max_pixels=10**8)
            images.append(transform(image, draws(0, position, "transform"))[0].permute(1, 2, 0))
        return torch.stack(images).permute(0, 3, 1, 2)

    return load


def by_torchvision(load: Callable[[list[Path]], Tensor]) -> Callable[[list[Path]], Tensor]:
    """The same without simplejpeg, as on a machine that has no wheel of it."""

    def without(files: list[Path]) -> Tensor:
        with mock.patch.object(decode_jpeg, "fast_decoder", return_value=None):
            return load(files)

    return without


def by_hand(size: int, floats: bool) -> Callable[[Image.Image], Tensor]:
    """The transforms of the published code: flip, RandomResizedCrop, ToTensor, Normalize."""
    steps: list[Callable[..., object]] = [v1.RandomHorizontalFlip(), v1.RandomResizedCrop(size, SCALE)]
    if floats:
        steps += [v1.ToTensor(), v1.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    else:
        steps += [v1.PILToTensor()]
    together: Callable[[Image.Image], Tensor] = v1.Compose(steps)
    return together


def baseline(size: int, floats: bool) -> Callable[[list[Path]], Tensor]:
    """The pipeline of the published code: PIL to RGB, and its transforms."""
    transform = by_hand(size, floats)

    def load(files: list[Path]) -> Tensor:
        images = []
        for file in files:
            with Image.open(file) as image:
                images.append(transform(image.convert("RGB")))
        return torch.stack(images)

    return load


if __name__ == "__main__":
    main()
