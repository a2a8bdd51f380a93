"""What a trained method sees in one image: its class maps, and what the method itself looks at."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masksup.data.masks import HOLE_RATIOS, FixedMasks, Level, evaluation_masks, hide, unpack
from masksup.decisions.decisions import Decisions
from masksup.engine.precision import autocast, choose_device, choose_dtype, placed
from masksup.explain.class_maps import Kind, class_maps
from masksup.methods.masksup import MaskSup
from masksup.methods.oass import OASS
from masksup.models.heads.maps import MapHead
from masksup.saved.open import Trained

# Shapes: C classes, H x W positions of the feature map, S x S pixels of the network's input.

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class KeyPoint:
    """Where OASS cuts the image, as shares of its sides, and the classes whose maps say so."""

    x: float
    y: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class MaskedView:
    """The image with a hole, and the probability of each class there."""

    title: str
    image_3SS: Tensor
    scores_C: NDArray[np.float64]


@dataclass(frozen=True)
class Looks:
    """Of one image: maps in [0, 1]; for attention how many times the even share its highest position gets."""

    kind: Kind
    maps_CHW: Floats
    concentration_C: Floats | None
    points: tuple[KeyPoint, ...] = ()
    views: tuple[MaskedView, ...] = ()


def look(
    trained: Trained, decisions: Decisions, image_3SS: Tensor, present_C: Sequence[bool],
    masks: Sequence[FixedMasks] = (),
) -> Looks:  # fmt: skip
    """What `trained` sees in an input of its network (uint8).

    present_C: the classes that are predicted, at whose maps OASS cuts. masks: one for each view with holes, with this
    image's mask first, as `view_masks` gives them; taken by `masksup` alone.
    """
    config = trained.config
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    method = placed(trained.method, device, config.precision).eval()
    images = placed(image_3SS[None], device, config.precision)
    with torch.no_grad(), autocast(device, dtype):
        x_BDHW = trained.network.features(images)
        found = class_maps(trained.network.head, x_BDHW)
        points = _key_points(method, x_BDHW, present_C, trained.classes) if isinstance(method, OASS) else ()
        views = (
            tuple(_masked_view(trained, decisions, images, mask) for mask in masks)
            if isinstance(method, MaskSup)
            else ()
        )
    concentration = found.concentration()
    return Looks(
        found.kind, found.shown()[0].float().cpu().numpy(),
        None if concentration is None else concentration[0].float().cpu().numpy(), points, views,
    )  # fmt: skip


def view_masks(trained: Trained, ids: Sequence[str]) -> list[FixedMasks]:
    """The masks of `masksup eval --masked`, few and many holes, one for each id; none for methods without masks."""
    if not isinstance(trained.method, MaskSup):
        return []
    levels: tuple[Level, ...] = ("low", "high")
    return [evaluation_masks(level, trained.config.model.size, ids) for level in levels]


def of_image(masks: Sequence[FixedMasks], number: int) -> list[FixedMasks]:
    """The masks of image `number` alone."""
    return [FixedMasks(m.bank, m.index_N[number : number + 1], m.protocol) for m in masks]


def _masked_view(trained: Trained, decisions: Decisions, images_13SS: Tensor, masks: FixedMasks) -> MaskedView:
    packed = masks.bank[torch.from_numpy(masks.index_N[:1])].to(images_13SS.device)
    holes_11SS = unpack(packed, images_13SS.shape[-1])
    masked_13SS = hide(images_13SS, holes_11SS, trained.network.mean)
    scores_C = decisions.probabilities(trained.method.predict(masked_13SS).float().cpu().numpy())[0]
    least, most = HOLE_RATIOS[masks.protocol["level"]]
    title = f"{float(holes_11SS.float().mean()):.0%} hidden ({masks.protocol['level']}: {least:.0%}-{most:.0%})"
    return MaskedView(title, (255 * masked_13SS[0]).round().to(torch.uint8).cpu(), scores_C)


def _key_points(method: OASS, x_BDHW: Tensor, present_C: Sequence[bool], names: Sequence[str]) -> tuple[KeyPoint, ...]:
    if not any(present_C):
        return ()
    head = method.network.head
    assert isinstance(head, MapHead), "check_head has found that it is one"
    logits_BC, maps_BCHW = head.with_maps(x_BDHW)
    targets_BC = torch.tensor([list(present_C)], dtype=torch.int8, device=logits_BC.device)
    _, label_TC, row_T, column_T = method.crops(maps_BCHW, logits_BC, targets_BC)
    found = []
    for labels_C, row, column in zip(label_TC.tolist(), row_T.tolist(), column_T.tolist()):
        mine = tuple(name for name, label in zip(names, labels_C) if label == 1)
        if mine:
            found.append(KeyPoint(column / method.size, row / method.size, mine))
    return tuple(found)
