"""The pictures of `masksup predict --pictures`: one an image, with `--explain` one that also shows where."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masksup.base.files import written_whole
from masksup.base.random import draws
from masksup.data.masks import FixedMasks
from masksup.data.transforms import eval_transform
from masksup.data.url import Source
from masksup.decisions.decisions import Decisions
from masksup.errors import UserError, nearest
from masksup.explain.looks import look, of_image, view_masks
from masksup.explain.picture import ScoredImage, chosen_classes, draw_looks
from masksup.output.pictures import draw_prediction
from masksup.output.regions import draw_regions
from masksup.saved.label import Region
from masksup.saved.open import Trained


@dataclass(frozen=True)
class Explaining:
    """What `--explain` needs of all images together. `classes`: their numbers, None for the likeliest."""

    files: tuple[Source, ...]
    classes: tuple[int, ...] | None
    masks: tuple[FixedMasks, ...]


def explaining(trained: Trained, files: Sequence[Source], classes: str | None) -> Explaining:
    """`classes`: names joined by commas, or None. UserError for one that the model does not have."""
    masks = view_masks(trained, [file.name for file in files])
    return Explaining(tuple(files), None if classes is None else class_numbers(classes, trained.classes), tuple(masks))


def class_numbers(names: str, known: Sequence[str]) -> tuple[int, ...]:
    """The numbers of the classes that `--classes A,B,C` names, each once; a name with a comma in quotation marks."""
    found = dict.fromkeys(name.strip() for name in next(csv.reader([names], skipinitialspace=True), [""]))
    for name in found:
        if name not in known:
            raise UserError(f"--classes: the model has no class '{name}'; {nearest(name, known)}")
    return tuple(known.index(name) for name in found)


def draw_file(
    file: Source, scores_C: NDArray[np.float64], regions: list[Region], trained: Trained, decisions: Decisions,
    target: Path, wanted: Explaining | None,
) -> None:  # fmt: skip
    """Draw what was found in an image file, and with `wanted` where, as a PNG at `target`."""
    config = trained.config
    # Decoded a second time: keeping a whole batch of large photographs would take gigabytes.
    picture_3HW = trained.reads(file)
    input_3SS, _ = eval_transform(config.augment, config.model.size)(picture_3HW, draws(0, 0, "transform"))
    places = regions or wanted is not None
    # Where it is not squeezed, what the network saw is a part of the photograph.
    as_seen = input_3SS if places and config.augment.eval_resize != "squish" else picture_3HW
    photo = Image.fromarray(as_seen.permute(1, 2, 0).numpy())
    if wanted is None:
        image = draw_regions(photo, regions) if regions else photo
        present = decisions.predicted(scores_C).tolist()
        picture = draw_prediction(image, trained.classes, scores_C.tolist(), present, threshold=decisions.thresholds)
    else:
        scored = ScoredImage(trained.classes, scores_C.tolist(), decisions.thresholds)
        masks = of_image(wanted.masks, wanted.files.index(file))
        looks = look(trained, decisions, input_3SS, scored.present, masks)
        picture = draw_looks(photo, scored, looks, chosen_classes(scored, wanted.classes), regions)
    with written_whole(target, target.suffix) as partial:
        picture.save(partial)
