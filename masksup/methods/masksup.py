"""MaskSup, also called MSL: masked supervised learning (Zunair and Ben Hamza, WACV 2024, arXiv 2310.18517)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from masksup.config.components import METHODS
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
from masksup.methods.method import Method, likeliest
from masksup.models.network import Network

BASES = ("baseline", "mcar")

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
        separate for batch-norm backbones, concat for layer-norm ones. "mixed": a single view, in which half of the
        images have their hole, and its loss alone: masks as mere augmentation, the control for what the method adds.
    base: what looks at a view, `{name: baseline}` or `{name: mcar, ...}`; the loss is then the sum over its streams.
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
        views: Literal["auto", "separate", "concat", "mixed"] = "auto",
        base: dict[str, str | int | float] | None = None,
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
        by_norm = "separate" if network.backbone.norm_kind == "batch" else "concat"
        self.views = by_norm if views == "auto" else views
        self.base = _base(network, loss, base or {"name": "baseline"})
        self.masks, self.level, self.hole_ratio, self.folder = masks, level, hole_ratio, folder
        self.patch, self.patch_ratio, self.masks_made = patch, patch_ratio, bank
        self.size = network.backbone.size
        self.seed = 0
        self.register_buffer("bank", torch.empty(0, dtype=torch.uint8), persistent=False)

    def set_up(self, seed: int) -> None:
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
        clean_B3SS = images_B3SS.float() / 255
        masked_B3SS = hide(images_B3SS, self.holes(batch["position"]), self.network.mean)
        if self.views == "mixed":
            hidden_B = choose(batch["position"], self.seed + 1, 2).bool()
            images = torch.where(hidden_B[:, None, None, None], masked_B3SS, clean_B3SS)
            return self._loss(self.base.streams(images), targets_BC), {}
        if self.views == "concat":
            both = self.base.streams(torch.cat([clean_B3SS, masked_B3SS]))
            clean, masked = zip(*(stream_BC.chunk(2) for stream_BC in both))
        else:
            clean, masked = self.base.streams(clean_B3SS), self.base.streams(masked_B3SS)
        a, b, c = self.weights
        logs = {
            "loss_clean": self._loss(clean, targets_BC),
            "loss_masked": self._loss(masked, targets_BC),
            "loss_consistency": consistency(likeliest(clean), likeliest(masked), targets_BC),
        }
        loss = a * logs["loss_clean"] + b * logs["loss_masked"] + c * logs["loss_consistency"]
        return loss, {name: term.detach() for name, term in logs.items()}

    def _loss(self, streams: tuple[Tensor, ...], targets_BC: Tensor) -> Tensor:
        losses = [self.loss(logits_BC, targets_BC) for logits_BC in streams]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def streams(self, images_B3SS: Tensor) -> tuple[Tensor, ...]:
        return self.base.streams(images_B3SS)

    def holes(self, position_B: Tensor) -> Tensor:
        """The mask of each training position, bool B1SS, True where hidden: a function of (seed, position)."""
        assert len(self.bank), "set_up() makes the masks, and training calls it"
        index_B = choose(position_B, self.seed, len(self.bank))
        return unpack(self.bank.index_select(0, index_B), self.size)


def _base(network: Network, loss: nn.Module, spec: Mapping[str, str | int | float]) -> Method:
    """The method whose streams are masked. UserError for one that trains by more than the loss of its streams."""
    name = spec.get("name")
    if name not in BASES:
        raise UserError(f"method.base.name: found {name!r}, expected {' or '.join(BASES)}")
    method: Method = METHODS.resolve(str(name))(network, loss, **{k: v for k, v in spec.items() if k != "name"})
    return method


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
