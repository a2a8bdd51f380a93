"""MaskSup, also called MSL: masked supervised learning (Zunair and Ben Hamza, WACV 2024, arXiv 2310.18517)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from masksup.data.masks import (
    HOLE_RATIOS,
    Holes,
    choose,
    folder_holes,
    hide,
    irregular_holes,
    pack,
    patch_holes,
    unpack,
)
from masksup.errors import UserError
from masksup.methods.method import Method
from masksup.models.network import Network

# Shapes: B images, S x S pixels, C classes, N masks of the bank.


def consistency(clean_BC: Tensor, masked_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Mean squared difference of the probabilities of two views, over the pairs that the other terms count."""
    counted_BC = targets_BC >= 0
    squares_BC = (clean_BC.float().sigmoid() - masked_BC.float().sigmoid()).square()
    return (squares_BC * counted_BC).sum() / counted_BC.sum().clamp(min=1)


class MaskSup(Method):
    """Weighted sum of the loss on the image, the loss on the image with a hole, and the mean squared difference
    of the two views' probabilities. Gradients flow through both views; both see every label.

    weights: of the three terms, in this order.
    views: "separate" forwards, clean then masked, each with its own batch statistics, as in the original; or
        both as one batch ("concat"), which is the same for networks that normalise within a sample. "auto":
        separate for batch-norm backbones, concat for layer-norm ones.
    masks: "irregular" strokes and ellipses; "folder": pictures read by the original's rules; "patches".
    level: irregular holes of 0.01-0.1 ("low") or 0.5-0.6 ("high") of the image; first or last files of a folder.
    hole_ratio: another range for irregular masks. folder: where the pictures are.
    patch, patch_ratio: side of the patches in pixels, and the share of them that is hidden.
    bank: number of masks made, irregular or patches. Holes have the value 0 of the normalised image.
    """

    bank: Tensor

    def __init__(
        self,
        network: Network,
        loss: nn.Module,
        *,
        weights: tuple[float, float, float] = (0.3, 0.2, 0.5),
        views: Literal["auto", "separate", "concat"] = "auto",
        masks: Literal["irregular", "folder", "patches"] = "irregular",
        level: Literal["low", "high"] = "high",
        hole_ratio: tuple[float, float] | None = None,
        folder: str | None = None,
        patch: int = 32,
        patch_ratio: float = 0.5,
        bank: int = 1000,
    ) -> None:
        super().__init__(network, loss)
        _check(weights, masks, hole_ratio, folder, patch, bank)
        self.weights = weights
        batch_norm = network.backbone.norm_kind == "batch"
        self.concat = not batch_norm if views == "auto" else views == "concat"
        self.masks, self.level, self.hole_ratio, self.folder = masks, level, hole_ratio, folder
        self.patch, self.patch_ratio, self.masks_made = patch, patch_ratio, bank
        self.size = network.backbone.size
        self.seed = 0
        self.register_buffer("bank", torch.empty(0, dtype=torch.uint8), persistent=False)

    def prepare(self, seed: int) -> None:
        """Make the bank of masks, a function of the seed. UserError naming the option that cannot be met."""
        self.seed = seed
        self.bank = pack(self._holes(seed)).to(self.bank.device)

    def _holes(self, seed: int) -> Iterator[Holes]:
        if self.masks == "folder":
            return folder_holes(Path(self.folder or ""), self.level, self.size)
        if self.masks == "patches":
            return patch_holes(self.masks_made, self.size, self.patch, self.patch_ratio, seed)
        return irregular_holes(self.masks_made, self.size, self.hole_ratio or HOLE_RATIOS[self.level], seed)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images_B3SS, targets_BC = batch["image"], batch["target"]
        masked_B3SS = hide(images_B3SS, self.holes(batch["position"]), self.network.mean)
        if self.concat:
            both = torch.cat([images_B3SS.float() / 255, masked_B3SS])
            clean_BC, masked_BC = self.network(both).chunk(2)
        else:
            clean_BC = self.network(images_B3SS.float() / 255)
            masked_BC = self.network(masked_B3SS)
        clean, masked = self.loss(clean_BC, targets_BC), self.loss(masked_BC, targets_BC)
        difference = consistency(clean_BC, masked_BC, targets_BC)
        a, b, c = self.weights
        logs = {"loss_clean": clean, "loss_masked": masked, "loss_consistency": difference}
        return a * clean + b * masked + c * difference, {name: term.detach() for name, term in logs.items()}

    def holes(self, position_B: Tensor) -> Tensor:
        """The mask of each training position, bool B1SS, True where hidden: a function of (seed, position)."""
        assert len(self.bank), "prepare() makes the masks, and training calls it"
        index_B = choose(position_B, self.seed, len(self.bank))
        return unpack(self.bank.index_select(0, index_B), self.size)

    def predict(self, images_B3SS: Tensor) -> Tensor:
        logits_BC: Tensor = self.network(images_B3SS)
        return logits_BC


def _check(
    weights: tuple[float, ...],
    masks: str,
    hole_ratio: tuple[float, float] | None,
    folder: str | None,
    patch: int,
    bank: int,
) -> None:
    """UserError for options that do not go together, before anything is built from them."""
    if min(weights) < 0 or max(weights) == 0:
        raise UserError(f"method.weights: found {list(weights)}, expected three numbers from 0, not all 0")
    if masks == "folder" and folder is None:
        raise UserError("method.folder: not set, but method.masks is folder")
    if masks != "folder" and folder is not None:
        raise UserError(f"method.folder: set, but method.masks is {masks}, expected folder")
    if masks != "irregular" and hole_ratio is not None:
        raise UserError(f"method.hole_ratio: set, but method.masks is {masks}, expected irregular")
    for key, value in (("method.patch", patch), ("method.bank", bank)):
        if value < 1:
            raise UserError(f"{key}: found {value}, expected at least 1")
