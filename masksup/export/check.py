"""An exported model against the model it was made from, on real images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masksup.base.random import draws
from masksup.base.words import counted
from masksup.data.index import open_index
from masksup.data.split import Part, eval_dataset, open_source
from masksup.data.transforms import eval_transform
from masksup.data.url import Source
from masksup.decisions.decisions import Decisions
from masksup.errors import UserError
from masksup.export.trace import Deployed
from masksup.inference.card import Precision
from masksup.metrics.pairs import probabilities
from masksup.output.image_files import find_images
from masksup.saved.open import Trained

# Shapes: N images, C classes, R regions an image.

IMAGES = 32  # that are compared, spread evenly over those there are
BATCHES = (1, 3, 8)  # images a forward pass, in turn, so that the batch is seen to be free
TOLERANCE = 1e-4  # of a probability in fp32
# What a file of lower precision has to keep: a share of the decisions (an image and a class), or, of a model that
# hardly knows yet and decides by hairs, probabilities as near as this.
AGREEMENT = {"fp16": 0.998, "int8": 0.99}
NEAR = 0.02
# Share of images in which MCAR may look at another region. Where a profile peaks is a yes or no at every pixel, and
# last bits, which differ between any two implementations, may turn it; wrong localisation moves nearly all.
MOVED = 0.5

Arrays = Sequence[NDArray[Any]]
Runner = Callable[[NDArray[np.uint8]], Arrays]
"""uint8 images N3SS to logits_NC, and of MCAR boxes int64 NR4 and their classes NR."""


@dataclass(frozen=True)
class Check:
    """How far an exported model is from the eager one."""

    images: int
    source: str
    largest_difference: float
    """In probability, over all images and classes; of MCAR in fp32, where both look at the regions of the former."""
    agreement: float
    """Share of the decisions that are the same, of all images."""
    moved: int | None
    """Images in which MCAR by itself looks elsewhere; None: another method."""
    largest_moved: float | None
    """The largest difference in these, each looking where it does."""

    def lines(self) -> list[str]:
        """What was found, for people."""
        found = [
            f"checked on {counted(self.images, 'image')} ({self.source}): largest difference in probability "
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


@dataclass(frozen=True)
class Images:
    """What a model is checked on: uint8 images as evaluation prepares them, and where they are from."""

    images_N3SS: Tensor
    source: str
    batches: Sequence[int] = BATCHES
    """Images a forward pass, in turn."""


def check_images(trained: Trained, given: Sequence[str]) -> Images:
    """Of `given` files and folders, else of the run's own test or evaluation part. UserError if there are none."""
    if given:
        files = find_images(given)
        rows = _spread(len(files))
        named = f"{given[0]}{', ...' if given[1:] else ''}"
        return Images(torch.stack([_load(files[row], trained) for row in rows]), named)
    part = part_of(trained)
    dataset = eval_dataset(trained.config, part)
    return Images(torch.stack([dataset[row]["image"] for row in _spread(len(dataset))]), part.title)


def part_of(trained: Trained) -> Part:
    """What the run is scored on: its test part, else its evaluation part. One that has neither is checked on what it
    learnt from: two forms of a network have to agree on any image. UserError if it is not there any more."""
    data = trained.config.data
    try:
        if data.folds and not data.test and not data.eval:
            source = open_source(data, trained.config.seed)
            return source.eval or source.train
        return Part(open_index(Path(data.test or data.eval or data.train)))
    except UserError as error:
        raise UserError(f"{error}; an export is checked on real images: name some by --check IMAGES") from None


def _load(file: Source, trained: Trained) -> Tensor:
    config = trained.config
    image = trained.reads(file)
    return eval_transform(config.augment, config.model.size)(image, draws(0, 0, "transform"))[0]


def _spread(count: int) -> list[int]:
    return [round(float(row)) for row in np.linspace(0, count - 1, min(count, IMAGES))]


def outputs_of(run: Runner, images_N3SS: Tensor, batches: Sequence[int] = BATCHES) -> Arrays:
    """What a model says of all images, in batches of the sizes given, in turn."""
    parts = [run(images.numpy()) for images in _batches(images_N3SS, batches)]
    return [np.concatenate(part) for part in zip(*parts)]


def eager_run(deployed: Deployed) -> Runner:
    """The model itself, in fp32 on the CPU."""

    @torch.inference_mode()
    def run(images_N3SS: NDArray[np.uint8]) -> Arrays:
        return [output.numpy() for output in deployed(torch.from_numpy(images_N3SS))]

    return run


def compare(
    deployed: Deployed, eager: Arrays, other: Arrays, images_N3SS: Tensor, source: str, decisions: Decisions,
    precision: Precision,
) -> Check:  # fmt: skip
    """How far the outputs of an exported model are from those of the model itself."""
    made = [decisions.predicted(decisions.probabilities(logits_NC)) for logits_NC in (eager[0], other[0])]
    agreement = float((made[0] == made[1]).mean())
    apart_N = _apart(eager[0], other[0])
    if len(eager) == 1:
        return Check(len(apart_N), source, float(apart_N.max()), agreement, None, None)
    moved_N = (eager[1] != other[1]).any((1, 2)) | (eager[2] != other[2]).any(1)
    largest_moved = float(apart_N[moved_N].max(initial=0.0))
    if precision == "fp32" and moved_N.any():
        again_N = _apart(_looking_there(deployed, images_N3SS[moved_N], other[1][moved_N]), other[0][moved_N])
        apart_N[moved_N] = again_N
    return Check(len(apart_N), source, float(apart_N.max()), agreement, int(moved_N.sum()), largest_moved)


def refuse_if_far(check: Check, precision: Precision) -> None:
    """UserError, with the figure and the limit, if the exported model is not the same model."""
    where, end = f"on {check.source}", "; nothing was written"
    if precision == "fp32":
        if not check.largest_difference <= TOLERANCE:
            raise UserError(
                f"the exported model differs by {check.largest_difference:.2g} in probability {where}, "
                f"expected at most {TOLERANCE:g}{end}"
            )
        if (check.moved or 0) > MOVED * check.images:
            raise UserError(
                f"the exported mcar looks at other regions in {check.moved} of {counted(check.images, 'image')} "
                f"{where}, expected at most {100 * MOVED:g} %{end}"
            )
    elif check.agreement < AGREEMENT[precision] and not check.largest_difference <= NEAR:
        raise UserError(
            f"--precision {precision}: {100 * check.agreement:.2f} % of the decisions {where} agree with the model in "
            f"fp32, expected at least {100 * AGREEMENT[precision]:g} %, or a largest difference in probability of "
            f"{NEAR:g} (found {check.largest_difference:.2g}){end}"
        )


def _apart(logits_NC: NDArray[Any], others_NC: NDArray[Any]) -> NDArray[np.float64]:
    """The largest difference in probability of each image; infinite where a logit is not a number."""
    apart_NC = np.abs(probabilities(logits_NC) - probabilities(others_NC))
    found: NDArray[np.float64] = np.where(np.isfinite(apart_NC), apart_NC, np.inf).max(1)
    return found


@torch.inference_mode()
def _looking_there(deployed: Deployed, images_N3SS: Tensor, boxes_NR4: NDArray[np.int64]) -> NDArray[Any]:
    return deployed.with_regions(images_N3SS, torch.from_numpy(boxes_NR4)).numpy()


def _batches(images_N3SS: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    start, turn = 0, 0
    while start < len(images_N3SS):
        size = sizes[turn % len(sizes)]
        yield images_N3SS[start : start + size].contiguous()
        start, turn = start + size, turn + 1
