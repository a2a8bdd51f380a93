"""Small images on disk, and the batches that a loader makes of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from masksup.config.schema import Augment
from masksup.data.dataset import Batch, TrainDataset
from masksup.data.index import Index
from masksup.data.sampler import Plan
from masksup.data.transforms import train_transform

SETTINGS = Augment(crop="random_resized", randaugment=(1, 9), color_jitter=(0.3, 0.3, 0.3, 0.1), cutout=0.2)


def write_images(folder: Path, count: int) -> list[str]:
    names = [f"{i:03d}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        noise = np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(noise).resize((64, 48)).save(folder / name)
    return names


def plan(**changes: Any) -> Plan:
    whole = Plan(samples=23, global_batch=8, micro_batch=4, epochs=2, last_batch="continue", seed=1)
    return replace(whole, **changes)


def train_set(index: Index, p: Plan, **options: Any) -> TrainDataset:
    return TrainDataset(index, train_transform(SETTINGS, 32), p, **options)


def equal(one: list[list[Batch]], two: list[list[Batch]]) -> bool:
    flat, other = [b for step in one for b in step], [b for step in two for b in step]
    same_keys = [a.keys() == b.keys() for a, b in zip(flat, other)]
    return len(flat) == len(other) and all(same_keys) and all(
        torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for a, b in zip(flat, other) for key in a
    )  # fmt: skip


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
