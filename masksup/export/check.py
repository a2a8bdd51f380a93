"""An exported model against the model it was made from, on real images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masksup.data.dataset import EvalDataset
from masksup.data.decode import decode
from masksup.data.index import open_index
from masksup.data.random import draws
from masksup.data.source import Part, open_source, transform_settings
from masksup.data.transforms import eval_transform
from masksup.decisions import Decisions
from masksup.errors import UserError
from masksup.export.trace import Deployed
from masksup.image_files import find_images
from masksup.inference.card import Precision
from masksup.metrics.pairs import probabilities
from masksup.trained import Trained

# Shapes: N images, C classes, R regions an image.

IMAGES = 32  # that are compared, spread evenly over those there are
BATCHES = (1, 3, 8)  # images a forward pass, in turn, so that the batch is seen to be free
TOLERANCE = 1e-4  # of a probability in fp32
# Least share of decisions (an image and a class) that a file of lower precision has in common with the model.
AGREEMENT = {"fp32": 1.0, "fp16": 0.998, "int8": 0.99}
# Largest share of images in which MCAR may look at another region. Where a profile peaks is a yes or no at every pixel,
# and the last bits, which differ between any two implementations, may turn it; the model alone does so too, from one
# batch size to another.
MOVED = 0.1

Run = Callable[[NDArray[np.uint8]], Sequence[NDArray[Any]]]
"""uint8 images NxCxSxS to logits_NC, and of MCAR boxes int64 NR4 and their classes NR."""


@dataclass(frozen=True)
class Check:
    """How far an exported model is from the eager one."""

    images: int
    source: str
    largest_difference: float
    """In probability, over all images and classes; of MCAR, of images in which both look at the same regions."""
    agreement: float
    """Share of the decisions that are the same, of all images."""
    moved: int | None
    """Images in which MCAR looks elsewhere; None: another method."""
    largest_moved: float | None
    """The largest difference in these."""

    def lines(self) -> list[str]:
        """What was found, for people."""
        found = [
            f"checked on {self.images} images ({self.source}): largest difference in probability "
            f"{self.largest_difference:.2g}, {100 * self.agreement:.2f} % of the decisions agree"
        ]
        if self.moved:
            found.append(
                f"in {self.moved} of them rounding moved a region that mcar looks at: difference up to "
                f"{self.largest_moved:.2g} there"
            )
        return found

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def check_images(trained: Trained, given: Sequence[str]) -> tuple[Tensor, str]:
    """(uint8 images N3SS as evaluation prepares them, where they are from): of `given` files and folders, else of the
    run's own test or evaluation part. UserError if there are none."""
    if given:
        files = find_images(given)
        rows = _spread(len(files))
        return torch.stack([_load(files[row], trained) for row in rows]), f"{given[0]}{', ...' if given[1:] else ''}"
    part = _part(trained)
    config = trained.config
    transform = eval_transform(transform_settings(config.augment), config.model.size)
    dataset = EvalDataset(part.index, transform, config.data.max_pixels, config.data.broken_budget, part.chosen)
    return torch.stack([dataset[row]["image"] for row in _spread(len(dataset))]), part.title


def _part(trained: Trained) -> Part:
    data = trained.config.data
    wanted = data.test or data.eval
    try:
        if wanted is not None:
            return Part(open_index(Path(wanted)))
        held_out = open_source(data, trained.config.seed).eval if data.folds else None
    except UserError as error:
        raise UserError(f"{error}; an export is checked on real images: name some by --check IMAGES") from None
    if held_out is None:
        raise UserError("--check: this run has no evaluation images; expected some, an export is checked on real ones")
    return held_out


def _load(file: Path, trained: Trained) -> Tensor:
    config = trained.config
    image = decode(file, exif=True, max_pixels=config.data.max_pixels)
    return eval_transform(transform_settings(config.augment), config.model.size)(image, draws(0, 0, "transform"))[0]


def _spread(count: int) -> list[int]:
    return [round(float(row)) for row in np.linspace(0, count - 1, min(count, IMAGES))]


def compare(run: Run, deployed: Deployed, images_N3SS: Tensor, source: str, decisions: Decisions) -> Check:
    """The largest difference of `run` from the eager model in fp32 on the CPU."""
    eager = _joined(_eager(deployed, images) for images in _batches(images_N3SS, (max(BATCHES),)))
    other = _joined(run(images.numpy()) for images in _batches(images_N3SS, BATCHES))
    apart_NC = np.abs(probabilities(other[0]) - probabilities(eager[0]))
    # A logit that is not a number is no small difference.
    apart_N = np.where(np.isfinite(apart_NC), apart_NC, np.inf).max(1)
    moved_N = np.zeros(len(apart_N), bool)
    for mine, theirs in zip(eager[1:], other[1:]):
        moved_N |= (mine != theirs).reshape(len(mine), -1).any(1)
    made = [decisions.predicted(decisions.probabilities(logits_NC)) for logits_NC in (eager[0], other[0])]
    looks_twice = len(eager) > 1
    return Check(
        len(apart_N), source, float(apart_N[~moved_N].max(initial=0.0)), float((made[0] == made[1]).mean()),
        int(moved_N.sum()) if looks_twice else None,
        float(apart_N[moved_N].max(initial=0.0)) if looks_twice else None,
    )  # fmt: skip


def refuse_if_far(check: Check, precision: Precision) -> None:
    """UserError, with the figure and the limit, if the exported model is not the same model."""
    if precision == "fp32" and not check.largest_difference <= TOLERANCE:
        raise UserError(
            f"the exported model differs by {check.largest_difference:.2g} in probability on {check.source}, "
            f"expected at most {TOLERANCE:g}; nothing was written"
        )
    if precision != "fp32" and check.agreement < AGREEMENT[precision]:
        raise UserError(
            f"--precision {precision}: {100 * check.agreement:.2f} % of the decisions on {check.source} agree with "
            f"fp32, expected at least {100 * AGREEMENT[precision]:g} %; nothing was written"
        )
    if precision == "fp32" and (check.moved or 0) > MOVED * check.images:
        raise UserError(
            f"the exported mcar looks at other regions in {check.moved} of {check.images} images of {check.source}, "
            f"expected at most {100 * MOVED:g} %; nothing was written"
        )


def _batches(images_N3SS: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    start, turn = 0, 0
    while start < len(images_N3SS):
        size = sizes[turn % len(sizes)]
        yield images_N3SS[start : start + size].contiguous()
        start, turn = start + size, turn + 1


@torch.inference_mode()
def _eager(deployed: Deployed, images: Tensor) -> list[NDArray[Any]]:
    return [output.numpy() for output in deployed(images)]


def _joined(outputs: Iterator[Sequence[NDArray[Any]]]) -> list[NDArray[Any]]:
    return [np.concatenate(parts) for parts in zip(*outputs)]
