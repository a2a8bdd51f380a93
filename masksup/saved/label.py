"""Images labelled by a model: what `masksup predict`, the demo and the Python API share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masksup.base.random import draws
from masksup.data.ahead import ahead
from masksup.data.decode_pil import BrokenImage
from masksup.data.loader import workers_of
from masksup.data.transforms import eval_transform
from masksup.data.url import Source
from masksup.decisions.decisions import Decisions
from masksup.evaluation.forward import Predictor, run_model
from masksup.methods.mcar import Regions, find_mcar
from masksup.saved.open import Trained
from masksup.saved.outputs import ready

Loaded = list[tuple[Source, Tensor]]
"""Files and their model inputs, uint8 3SS."""


@dataclass(frozen=True)
class Region:
    """x1, y1, x2, y2 as shares of the picture's sides; the probabilities of `name` there and in the whole image."""

    box: tuple[float, float, float, float]
    name: str
    global_score: float
    fused_score: float


def load_blocks(files: Sequence[Source], trained: Trained, broken: list[str]) -> Iterator[Loaded]:
    """Model inputs (turned as their EXIF says) in groups of the run's evaluation batch; `broken` gets a line for each
    file that cannot be read. As many threads as the run has loader workers read ahead of the model."""
    config = trained.config
    transform = eval_transform(config.augment, config.model.size)

    def read(file: Source) -> Tensor | str:
        try:
            return transform(trained.reads(file), draws(0, 0, "transform"))[0]
        except BrokenImage as error:
            return str(error)

    block: Loaded = []
    for file, image in zip(files, ahead(read, files, workers_of(config.data), config.eval.batch)):
        if isinstance(image, str):
            broken.append(image)
            continue
        block.append((file, image))
        if len(block) == config.eval.batch:
            yield block
            block = []
    if block:
        yield block


def label(
    block: Sequence[tuple[Source, Tensor]], trained: Trained, decisions: Decisions, *, exact: bool = False
) -> Iterator[tuple[Source, NDArray[np.float64], list[Region]]]:
    """(file, calibrated probabilities of all classes, the regions that MCAR looked at) for a group of model inputs.

    exact: the forward pass has the `eval.batch` images of an evaluation, whose scores are then the same to the last
    bit. It takes as long for one image as for all of them.
    """
    config, looks_twice = trained.config, find_mcar(trained.method)
    device, dtype = ready(trained)
    inputs = [image for _, image in block]
    padded = torch.stack(inputs + [inputs[-1]] * (config.eval.batch - len(inputs) if exact else 0))
    valid = torch.arange(len(padded)) < len(block)
    seen: list[Regions] = []

    def predict(images_B3SS: Tensor) -> Tensor:
        if looks_twice is None:
            return trained.method.predict(images_B3SS)
        seen.append(looks_twice.predict_regions(images_B3SS))
        return seen[-1].fused_BC

    blocks = iter([(padded, valid, ~valid, torch.arange(len(padded)))])
    outputs = run_model(Predictor(predict, config, device, dtype), blocks)
    for row, ((file, _), scores_C) in enumerate(zip(block, decisions.probabilities(outputs.logits_NC))):
        yield file, scores_C, _regions(seen[0], row, trained) if seen else []


def _regions(seen: Regions, row: int, trained: Trained) -> list[Region]:
    size = trained.config.model.size
    global_C, fused_C = (logits_BC[row].float().sigmoid().tolist() for logits_BC in (seen.global_BC, seen.fused_BC))
    found = []
    for (x1, y1, x2, y2), c in zip(seen.boxes_BN4[row].tolist(), seen.classes_BN[row].tolist()):
        box = (x1 / size, y1 / size, x2 / size, y2 / size)
        found.append(Region(box, trained.classes[c], global_C[c], fused_C[c]))
    return found
