"""Puzzle-CAM (Jo and Yu, ICIP 2021, arXiv 2101.11253): the class maps of an image and of its tiles are to agree."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.errors import UserError
from masksup.methods.method import Method
from masksup.methods.tiles import average_to, check_head, join, map_head, ramp, split, tile_grid
from masksup.models.heads.maps import cam
from masksup.models.network import Network

# Shapes: B images, C classes, H x W positions, S x S pixels, N tiles of all images.


class Puzzle(Method):
    """L_class + L_pieces + alpha(t) L_reconstruction + `confidence` L_confidence; methods.md 5.1.

    The image is cut into equal tiles, the same network looks at them, and their class maps are put together. L_class:
    the loss of the image. L_pieces: the loss of the mean of the merged maps. L_reconstruction: the difference of the
    merged maps and the image's. All forward passes have gradients. The published loss, a multi-label soft margin
    averaged over classes and images, is `loss.name: bce`.

    pieces: number of tiles, a square number. The side of the image has to be a multiple of the tiles across times the
        stride of the backbone, unless tiles are resized.
    tile: side that tiles are resized to, pixels; their merged maps are then averaged to the size of the image's.
        By default they keep their size. Backbones built for one size need it.
    alpha, alpha_ramp: alpha(t) rises from 0 to alpha in this share of the training; a ramp of 0 makes it constant.
    reconstruction: `masking` compares the maps of present classes and divides by the number of all; `selection`
        averages over the present classes of each image, then over the images; `none` compares the maps of all classes.
    norm: `l1` absolute or `l2` squared difference. level: of the class maps (`feature`) or of the activation maps
        made of them (`cam`).
    confidence: weight of the term that makes the tiles' probabilities 0 or 1: minus the mean over tiles of the sum over
        classes of v log v.
    """

    def __init__(
        self,
        network: Network,
        loss: nn.Module,
        *,
        pieces: int = 4,
        tile: int | None = None,
        alpha: float = 4.0,
        alpha_ramp: float = 0.5,
        reconstruction: Literal["masking", "selection", "none"] = "masking",
        norm: Literal["l1", "l2"] = "l1",
        level: Literal["feature", "cam"] = "feature",
        confidence: float = 0.0,
    ) -> None:
        super().__init__(network, loss)
        check_head(network, "puzzle")
        self.side, self.size = math.isqrt(max(pieces, 0)), network.backbone.size
        if pieces < 4 or self.side**2 != pieces:
            raise UserError(f"method.pieces: found {pieces}, expected a square number from 4")
        if tile is not None and not 1 <= tile <= self.size:
            raise UserError(f"method.tile: found {tile}, expected 1 to {self.size} (model.size)")
        for key, value in (("method.alpha", alpha), ("method.confidence", confidence)):
            if value < 0:
                raise UserError(f"{key}: found {value}, expected at least 0")
        if not 0 <= alpha_ramp <= 1:
            raise UserError(f"method.alpha_ramp: found {alpha_ramp}, expected a share, 0 to 1")
        self.tile = tile
        if tile is None:
            self._check_size()
        self.alpha, self.alpha_ramp, self.confidence = alpha, alpha_ramp, confidence
        self.reconstruction, self.norm, self.level = reconstruction, norm, level

    def _check_size(self) -> None:
        backbone, across = self.network.backbone, self.side * self.network.backbone.stride
        if self.size < across:
            raise UserError(
                f"model.size: found {self.size}, expected at least {across}: method puzzle cuts it into "
                f"{self.side} x {self.side} tiles, each at least the backbone's stride of {backbone.stride}"
            )
        if self.size % across:
            near = max(1, round(self.size / across)) * across
            raise UserError(
                f"method.pieces: found {self.side**2}, but model.size {self.size} is not a multiple of {self.side} "
                f"tiles x the backbone's stride of {backbone.stride}; nearest size: {near}"
            )

    def set_up(self, _: int) -> None:
        """UserError if the backbone cannot take a tile, or the tiles' maps do not make the image's."""
        tile = self.size // self.side if self.tile is None else self.tile
        grid, backbone = tile_grid(self.network, tile), self.network.backbone
        if self.tile is None and grid * self.side != backbone.grid:
            raise UserError(
                f"method.pieces: {self.side} tiles across have maps of {grid} positions on {backbone.name}, which do "
                f"not make the {backbone.grid} of the image; set method.tile={self.size}"
            )

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        network, head = self.network, map_head(self.network)
        images_B3SS = network.normalize(batch["image"])
        logits_BC, maps_BCHW = head.with_maps(network.backbone(images_B3SS))
        tile_maps = head.maps(network.backbone(self._tiles(images_B3SS)))
        merged_BCHW = join(tile_maps, self.side)
        if self.tile is not None:
            merged_BCHW = average_to(merged_BCHW, network.backbone.grid)
        losses = {
            "loss_class": self.loss(logits_BC, batch["target"]),
            "loss_pieces": self.loss(merged_BCHW.mean((2, 3)), batch["target"]),
            "loss_reconstruction": self._apart(maps_BCHW, merged_BCHW, batch["target"]),
        }
        alpha = ramp(self.alpha, self.alpha_ramp, batch["progress"])
        loss = losses["loss_class"] + losses["loss_pieces"] + alpha * losses["loss_reconstruction"]
        if self.confidence > 0:
            losses["loss_confidence"] = indecision(tile_maps.mean((2, 3)))
            loss = loss + self.confidence * losses["loss_confidence"]
        return loss, {name: term.detach() for name, term in losses.items()}

    def _tiles(self, images_B3SS: Tensor) -> Tensor:
        tiles = split(images_B3SS, self.side)
        if self.tile is None:
            return tiles
        return F.interpolate(tiles, (self.tile, self.tile), mode="bilinear", align_corners=False)

    def _apart(self, maps_BCHW: Tensor, merged_BCHW: Tensor, targets_BC: Tensor) -> Tensor:
        if self.level == "cam":
            maps_BCHW, merged_BCHW = cam(maps_BCHW), cam(merged_BCHW)
        apart_BCHW = (maps_BCHW - merged_BCHW).abs() if self.norm == "l1" else (maps_BCHW - merged_BCHW).square()
        apart_BC = apart_BCHW.mean((2, 3))
        if self.reconstruction == "none":
            return apart_BC.mean()
        present_BC = targets_BC == 1
        if self.reconstruction == "masking":
            return (apart_BC * present_BC).mean()
        return ((apart_BC * present_BC).sum(1) / present_BC.sum(1).clamp(min=1)).mean()


def indecision(logits_NC: Tensor) -> Tensor:
    """Minus the mean over tiles of the sum over classes of v log(v + 1e-5), where v is the probability."""
    v_NC = logits_NC.sigmoid()
    return -(v_NC * torch.log(v_NC + 1e-5)).sum(1).mean()
