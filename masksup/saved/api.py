"""A trained model for use from Python: `masksup.load(path).predict(images)`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from masksup.base.random import draws
from masksup.base.words import counted
from masksup.data.decode_pil import rgb_pixels
from masksup.data.transforms import eval_transform
from masksup.data.url import as_url
from masksup.decisions.decisions import Decisions
from masksup.errors import UserError
from masksup.saved.decisions_of import decisions_for
from masksup.saved.label import label
from masksup.saved.open import Trained, WhichWeights, open_trained
from masksup.saved.running import Device, Running

Picture = str | Path | Image.Image | Tensor | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    labels: list[str]
    """The predicted classes, in class order."""
    probabilities: dict[str, float]
    """The calibrated probability of every class."""


class Model:
    """A trained model with its decisions. `classes`, `decisions`, `trained` (network, configuration, checkpoint)."""

    def __init__(self, trained: Trained, decisions: Decisions) -> None:
        self.trained, self.decisions, self.classes = trained, decisions, trained.classes

    def __repr__(self) -> str:
        model, aim = self.trained.config.model, self.decisions.aim
        decides = f"thresholds for {aim}" if aim else f"threshold {self.decisions.thresholds[0]:g}"
        return (
            f"<masksup model {self.trained.checkpoint} ({self.trained.weights} weights): {model.backbone} + "
            f"{model.head.name}, {model.size} px, {counted(len(self.classes), 'class')}, {decides}>"
        )

    def predict(
        self, images: Picture | Iterable[Picture], threshold: float | None = None, *, exact: bool = False
    ) -> list[Prediction]:
        """Labels and probabilities of each image, those of `masksup predict`.

        Args:
            images: one or several of: path or address of an image file, PIL image, uint8 tensor RGB 3HW, uint8 array
                RGB HW3; or a batch of them as one tensor N3HW or array NHW3.
            threshold: one probability for all classes, in place of the thresholds of the model.
            exact: the scores of `masksup eval` to the last bit. One image then takes as long as a whole batch.

        Raises UserError for what is no image; nothing is then predicted.
        """
        if threshold is not None and not 0 < threshold < 1:
            raise UserError(f"threshold: found {threshold}, expected a probability between 0 and 1")
        decisions = self.decisions if threshold is None else self.decisions.with_threshold(threshold)
        return [
            Prediction(decisions.names(scores_C), dict(zip(self.classes, scores_C.tolist())))
            for scores_C in self._scores(_several(images), exact)
        ]

    def _scores(self, images: Iterable[Picture], exact: bool) -> Iterator[NDArray[np.float64]]:
        config = self.trained.config
        transform = eval_transform(config.augment, config.model.size)
        prepared = (
            (Path(f"image {number}"), transform(self._pixels(image, number), draws(0, 0, "transform"))[0])
            for number, image in enumerate(images)
        )
        while block := list(islice(prepared, config.eval.batch)):
            for _, scores_C, _ in label(block, self.trained, self.decisions, exact=exact):
                yield scores_C

    def _pixels(self, image: Any, number: int) -> Tensor:
        """uint8 RGB 3HW of whatever was given."""
        if isinstance(image, str | Path):
            return self.trained.reads(as_url(str(image)) or Path(image))
        if isinstance(image, Image.Image):
            reading = self.trained.reading
            try:
                image = rgb_pixels(image, exif=reading.exif, pixel_range=reading.pixel_range)
            except (OSError, ValueError, SyntaxError) as error:
                raise UserError(f"image {number}: a PIL image that cannot be read: {error}") from None
        found = tuple(image.shape) if isinstance(image, Tensor | np.ndarray) else type(image).__name__
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
            return image.cpu()
        kind = f" {image.dtype}" if isinstance(image, Tensor | np.ndarray) else ""
        raise UserError(
            f"image {number}: found {found}{kind}, expected a path, a PIL image, a uint8 tensor 3HW or array HW3"
        )


def _several(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    """One image as a list; a batch in one tensor or array is its images."""
    if isinstance(images, Tensor | np.ndarray):
        return images if images.ndim == 4 else [images]
    return [images] if isinstance(images, str | Path | Image.Image) else images


def load(path: Path, weights: WhichWeights, device: Device | None, batch: int | None) -> Model:
    """See `masksup.load`."""
    trained = open_trained(path, weights).run_as(Running(device, batch))
    return Model(trained, decisions_for(trained))
