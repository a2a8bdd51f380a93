"""Images cut into tiles, and class maps put together from theirs: what Puzzle-CAM and OASS share; methods.md 5.

Tiles lie in the batch piece by piece: first the top left tile of every image, then the one to its right, and so on.
A mosaic is an image whose equal parts are such tiles.
"""

from typing import Literal

import torch
from torch import Tensor

from masksup.errors import UserError
from masksup.models.backbones import map_side
from masksup.models.heads.linear import Linear
from masksup.models.heads.maps import MapHead
from masksup.models.network import Network

# Shapes: B images, T crops of them, n = `side` tiles across, K channels, H x W any size, t x t one tile, S pixels.

Resize = Literal["bilinear", "nearest"]


def split(mosaic_BKHW: Tensor, side: int) -> Tensor:
    """The side x side parts of every image, piece by piece: (n n B) K H/n W/n."""
    b, k, height, width = mosaic_BKHW.shape
    parts = mosaic_BKHW.reshape(b, k, side, height // side, side, width // side)
    return parts.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)


def join(tiles: Tensor, side: int) -> Tensor:
    """The inverse of `split`: (n n B) K t t to B K nt nt."""
    _, k, height, width = tiles.shape
    parts = tiles.reshape(side, side, -1, k, height, width)
    return parts.permute(2, 3, 0, 4, 1, 5).reshape(-1, k, side * height, side * width)


def cut(images_BKSS: Tensor, image_T: Tensor, row_T: Tensor, column_T: Tensor, tile: int, resize: Resize) -> Tensor:
    """The four tiles of every crop, cut at its point and each resized to `tile` pixels: (4 T) K t t.

    image_T: which image; row_T, column_T: the first pixel below and right of the cut, 1 to S - 1. A gather of pixels
    (rule 9); nothing beyond the cut takes part in a tile.
    """
    height, width = images_BKSS.shape[2:]
    rows = _halves(row_T, height, tile, resize)
    columns = _halves(column_T, width, tile, resize)
    pixels_BSKS = images_BKSS.transpose(1, 2)
    above, below, share = rows
    tall_TrKS = pixels_BSKS[image_T[:, None], above]
    if resize == "bilinear":
        tall_TrKS = torch.lerp(tall_TrKS, pixels_BSKS[image_T[:, None], below], share[:, :, None, None])
    left, right, share = columns
    shape = (-1, tall_TrKS.shape[1], tall_TrKS.shape[2], left.shape[1])
    mosaic_TrKc = tall_TrKS.gather(-1, left[:, None, None, :].expand(shape))
    if resize == "bilinear":
        other_TrKc = tall_TrKS.gather(-1, right[:, None, None, :].expand(shape))
        mosaic_TrKc = torch.lerp(mosaic_TrKc, other_TrKc, share[:, None, None, :])
    return split(mosaic_TrKc.transpose(1, 2), 2)


def merge(maps: Tensor, row_T: Tensor, column_T: Tensor, height: int, width: int, resize: Resize) -> Tensor:
    """The maps of four tiles put together on one grid, cut at row_T, column_T of it: (4 T) C g g to T C H W.

    Two matrices a crop: its own samples from the maps above and left of the cut, and from those below and right.
    """
    mosaic_TCgg = join(maps, 2)
    down_THg = _matrix(row_T, height, mosaic_TCgg.shape[2] // 2, resize)
    across_TWg = _matrix(column_T, width, mosaic_TCgg.shape[3] // 2, resize)
    return down_THg[:, None] @ mosaic_TCgg @ across_TWg[:, None].mT


def average_to(maps_BCHW: Tensor, side: int) -> Tensor:
    """Square maps averaged to `side` x `side` positions, each position by the share of it that is covered, so that the
    mean over positions stays. Two products of matrices: torch's area resizing has no deterministic gradient on a GPU.
    """
    before = maps_BCHW.shape[2]
    edge_s = torch.arange(side, device=maps_BCHW.device)[:, None] * (before / side)
    place_H = torch.arange(before, device=maps_BCHW.device)
    covered_sH = (torch.minimum(edge_s + before / side, place_H + 1) - torch.maximum(edge_s, place_H)).clamp(min=0)
    weight_sH = covered_sH * (side / before)
    return weight_sH @ maps_BCHW @ weight_sH.mT


def _halves(cut_T: Tensor, size: int, tile: int, resize: Resize) -> tuple[Tensor, Tensor, Tensor]:
    """For each of the 2 `tile` samples of a row of a mosaic: the pixel at or before it, the one after it, and how far
    it lies between them. The first half samples [0, cut), the second [cut, size)."""
    step_t = torch.arange(tile, device=cut_T.device)
    zero_T1, cut_T1 = torch.zeros_like(cut_T)[:, None], cut_T[:, None]
    first = _samples(step_t, cut_T1, tile, resize)
    second = _samples(step_t, size - cut_T1, tile, resize)
    starts = torch.cat([zero_T1.expand(-1, tile), cut_T1.expand(-1, tile)], 1)
    before, after, share = (torch.cat(pair, 1) for pair in zip(first, second))
    return starts + before, starts + after, share


def _matrix(cut_T: Tensor, size: int, tile: int, resize: Resize) -> Tensor:
    """The weights of 2 x `tile` samples of a mosaic in each of `size` samples of a row: T x size x 2 tile.

    The samples before `cut` stand for the whole first half, the others for the whole second half.
    """
    place_n = torch.arange(size, device=cut_T.device)
    cut_T1 = cut_T[:, None]
    second_Tn = place_n >= cut_T1
    length_Tn = torch.where(second_Tn, size - cut_T1, cut_T1)
    within_Tn = torch.where(second_Tn, place_n - cut_T1, place_n)
    before, after, share = _samples(within_Tn, torch.full_like(within_Tn, tile), length_Tn, resize)
    column_g = torch.arange(2 * tile, device=cut_T.device)
    start = torch.where(second_Tn, tile, 0)
    at_before = (start + before)[..., None] == column_g
    at_after = (start + after)[..., None] == column_g
    return at_before * (1 - share[..., None]) + at_after * share[..., None]


def _samples(step: Tensor, n_in: Tensor, n_out: int | Tensor, resize: Resize) -> tuple[Tensor, Tensor, Tensor]:
    """Sample `step` of `n_out` taken evenly from `n_in`: (index before, index after, share of the second).

    The half-pixel rule of torch's and OpenCV's bilinear resize, or torch's nearest, in the same arithmetic.
    """
    ratio = n_in.float() / n_out
    last = n_in - 1
    if resize == "nearest":
        index = torch.minimum((step * ratio).long(), last)
        return index, index, torch.zeros_like(index, dtype=torch.float32)
    place = ((step + 0.5) * ratio - 0.5).clamp(min=0)
    before = torch.minimum(place.long(), last)
    return before, torch.minimum(before + 1, last), place - before


def ramp(alpha: float, share: float, progress: Tensor) -> Tensor:
    """alpha(t) = min(alpha t / (T s), alpha), where `progress` is t / T and `share` is s; alpha for s = 0."""
    return torch.full_like(progress, alpha) if share == 0 else (alpha / share * progress).clamp(max=alpha)


def check_head(network: Network, method: str) -> None:
    """UserError if `method` cannot use the network's head: its logits have to come with class maps."""
    head = network.head
    if not isinstance(head, MapHead):
        raise UserError(
            f"model.head.name: found a {type(head).__name__} head, expected linear or csi: method {method} needs a "
            "classifier that it can apply at every position"
        )
    if isinstance(head, Linear) and head.pool != "avg":
        raise UserError(f"model.head.pool: found {head.pool}, expected avg: method {method} takes the mean of its maps")


def map_head(network: Network) -> MapHead:
    """The network's head, once `check_head` has found that it has maps."""
    assert isinstance(network.head, MapHead)
    return network.head


def tile_grid(network: Network, tile: int) -> int:
    """Side of the feature map of a tile of `tile` pixels, from a rehearsal. UserError if the backbone takes none."""
    return map_side(network.backbone, tile, "method.tile", "tiles of ")
