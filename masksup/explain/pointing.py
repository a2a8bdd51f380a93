"""Do maps point at their objects: the pointing game (Zhang et al., ECCV 2016), on data with boxes."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from masksup.data.index import CROWD, DIFFICULT, Index
from masksup.data.split import Part, eval_dataset
from masksup.engine.precision import choose_device
from masksup.errors import UserError
from masksup.explain.class_maps import class_maps
from masksup.saved.open import Trained


@dataclass(frozen=True)
class Pointing:
    """Over all pairs of an image and a class that is there: `hits` have the highest value of the class's map in one of
    its boxes; `chance` is the mean share of the positions that lie in one; `possible` have such a position at all."""

    pairs: int
    hits: int
    chance: float
    possible: int


def pointing_game(trained: Trained, part: Part) -> Pointing:
    """A position stands for its middle. Difficult objects and crowds, and classes without other boxes, do not count.

    UserError for an index without boxes, samples that are parts of images, or a transform that cuts.
    """
    config, index = trained.config, part.index
    if not len(index.box_class_M):
        raise UserError(f"{index.folder}: holds no boxes, which the pointing game needs")
    if len(index.crop_N4) or config.augment.eval_resize != "squish":
        raise UserError(f"{index.folder}: the pointing game takes whole images that are squeezed (eval_resize squish)")
    data = eval_dataset(config, part)
    device = choose_device(config.precision)
    trained.method.to(device)
    pairs, hits, chance, possible = 0, 0, 0.0, 0
    for row, sample in enumerate(part.samples.tolist()):
        with torch.no_grad():
            x_BDHW = trained.network.features(data[row]["image"][None].to(device))
        maps_CHW = class_maps(trained.network.head, x_BDHW).values_BCHW[0].cpu().numpy()
        for c, inside_HW in _inside(index, sample, maps_CHW.shape[1], maps_CHW.shape[2]).items():
            pairs += 1
            hits += int(inside_HW.flat[maps_CHW[c].argmax()])
            chance += float(inside_HW.mean())
            possible += int(inside_HW.any())
    return Pointing(pairs, hits, chance / max(pairs, 1), possible)


def _inside(index: Index, sample: int, height: int, width: int) -> dict[int, NDArray[np.bool_]]:
    """Of each class that is there, which positions have their middle in one of its boxes."""
    boxes_K4, class_K, _, flags_K = index.boxes(sample)
    image_width, image_height = index.sizes_I2[index.sample_image_N[sample]].tolist()
    x_W = (np.arange(width) + 0.5) / width * image_width
    y_H = (np.arange(height) + 0.5) / height * image_height
    found: dict[int, NDArray[np.bool_]] = {}
    for (x1, y1, x2, y2), c, flags in zip(boxes_K4.tolist(), class_K.tolist(), flags_K.tolist()):
        if index.labels_NC[sample, c] == 1 and not flags & (DIFFICULT | CROWD):
            within_HW = ((y_H >= y1) & (y_H < y2))[:, None] & ((x_W >= x1) & (x_W < x2))
            found[c] = found.get(c, False) | within_HW
    return found
