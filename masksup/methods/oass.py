"""OASS: images cut at key points of their class activation maps; the tiles' maps, put together, teach the image's."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from masksup.errors import UserError
from masksup.methods.key_points import enlarge, place_of, present_pairs, strongest_present
from masksup.methods.method import Method
from masksup.methods.tiles import check_head, cut, map_head, merge, ramp, tile_grid
from masksup.models.heads.maps import cam
from masksup.models.network import Network

# Shapes: B images, C classes, T crops, H x W positions, S x S pixels, t x t a tile.


class OASS(Method):
    """L_class + `patch_weight` L_patch + alpha(t) L_reconstruction; methods.md 5.2 to 5.4.

    L_class: the loss of the whole image. The image is cut into four tiles at each key point, the tiles go through the
    network, and their class maps are put together. L_patch: the loss of the mean of the merged map. L_reconstruction:
    the mean absolute difference of the merged map and the image's, on the classes of the crop. Both are means over
    the crops. All losses are `loss.name`; the published one is `bce`.

    strategy: `max`, one crop an image, at the highest point of its present classes, with all its labels; a crop for
        each present class, with that label alone, `cmax` at the highest point of its map, `ctopk` at the mean of its
        strongest local maxima, `ctopk_w` at their mean weighted by value.
    patches: who looks at the tiles. The `student` is the network itself; the `teacher`, its moving average, has no
        gradient, so that L_patch trains nothing and is only logged. `auto`, as published: max the student, the
        others the teacher.
    alpha, alpha_ramp: alpha(t) rises from 0 to alpha in this share of the training; a ramp of 0 makes it constant.
    patch_weight: of L_patch. decay: of the teacher, a = min(1 - 1 / (step + 1), decay).
    top: local maxima taken. distance: least distance of two of them and of the border, and radius: largest distance
        from the highest point (ctopk), as shares of the side.
    points: crops a batch has room for, an image, in the strategies with a crop for each class. Where more classes are
        present, each image's likeliest come first; room that is left over is computed and not counted.
    tile: side that tiles are resized to, pixels; by default half the image's. Backbones built for one size need it.
    compat: `original` repeats the published arithmetic: its roundings and slips in placing the point, nearest
        resizing, batch statistics of the four tiles of a crop alone, and a teacher that begins with another classifier.
        By default tiles are resized bilinearly, all go through the network as one batch, and no tile is thinner than
        a position of the feature map.
    """

    def __init__(
        self,
        network: Network,
        loss: nn.Module,
        *,
        strategy: Literal["max", "cmax", "ctopk", "ctopk_w"] = "max",
        patches: Literal["auto", "student", "teacher"] = "auto",
        alpha: float = 3.0,
        alpha_ramp: float = 0.05,
        patch_weight: float = 0.5,
        decay: float = 0.99,
        top: int = 5,
        distance: float = 0.0390625,
        radius: float = 0.25,
        points: int = 2,
        tile: int | None = None,
        compat: Literal["none", "original"] = "none",
    ) -> None:
        super().__init__(network, loss)
        check_head(network, "oass")
        self.size, self.grid = network.backbone.size, network.backbone.grid
        self.tile = self.size // 2 if tile is None else tile
        _check(self.size, self.grid, network.backbone.stride, self.tile, points, top)
        _check_shares(alpha, alpha_ramp, patch_weight, decay, distance, radius)
        self.strategy = strategy
        by_strategy = "student" if strategy == "max" else "teacher"
        self.patches = by_strategy if patches == "auto" else patches
        self.alpha, self.alpha_ramp, self.patch_weight, self.decay = alpha, alpha_ramp, patch_weight, decay
        self.top, self.points = top, points
        self.distance, self.radius = max(1, round(distance * self.size)), radius * self.size
        self.compat = compat
        self.resize: Literal["bilinear", "nearest"] = "nearest" if compat == "original" else "bilinear"
        self.teacher: Network | None = None

    def set_up(self, seed: int) -> None:
        """Make the teacher, a copy of the network. UserError if the backbone cannot take a tile."""
        tile_grid(self.network, self.tile)
        if self.patches == "teacher":
            self.teacher = _teacher_of(self.network)
            if self.compat == "original":
                _other_classifier(self.teacher, seed)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images_B3SS = self.network.normalize(batch["image"])
        logits_BC, maps_BCHW = map_head(self.network).with_maps(self.network.backbone(images_B3SS))
        with torch.no_grad():
            image_T, label_TC, row_T, column_T = self.crops(maps_BCHW, logits_BC, batch["target"])
            tiles = cut(images_B3SS, image_T, row_T, column_T, self.tile, self.resize)
        merged_TCHW = self._look_at(tiles, row_T, column_T)
        losses = {
            "loss_class": self.loss(logits_BC, batch["target"]),
            "loss_patch": self.loss(merged_TCHW.mean((2, 3)), label_TC),
            "loss_reconstruction": reconstruction(maps_BCHW[image_T], merged_TCHW, label_TC),
        }
        alpha = ramp(self.alpha, self.alpha_ramp, batch["progress"])
        loss = losses["loss_class"] + self.patch_weight * losses["loss_patch"] + alpha * losses["loss_reconstruction"]
        return loss, {name: term.detach() for name, term in losses.items()}

    def crops(self, maps_BCHW: Tensor, logits_BC: Tensor, targets_BC: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(image_T, label_TC, row_T, column_T): which image is cut where, and the labels of its tiles together:
        -1 for the classes that do not count."""
        if self.strategy == "max":
            image_T = torch.arange(len(targets_BC), device=targets_BC.device)
            label_TC, cam_TSS = targets_BC, strongest_present(maps_BCHW, targets_BC, self.size)
        else:
            slots = min(self.points * len(targets_BC), targets_BC.numel())
            image_T, class_T, valid_T = present_pairs(targets_BC, logits_BC, slots)
            label_TC = single_labels(targets_BC[image_T], class_T, valid_T)
            cam_TSS = enlarge(cam(maps_BCHW[image_T, class_T]), self.size)
        margin = self.size // self.grid
        row_T, column_T = place_of(self.strategy, cam_TSS, self.distance, self.radius, self.top, self.compat, margin)
        return image_T, label_TC, row_T, column_T

    def _look_at(self, tiles: Tensor, row_T: Tensor, column_T: Tensor) -> Tensor:
        """The class maps of the tiles, put together for each crop: merged_TCHW in float32."""
        if self.patches == "student":
            maps = self._tile_maps(self.network, tiles)
        else:
            assert self.teacher is not None, "set_up() makes the teacher, and training calls it"
            with torch.no_grad():
                maps = self._tile_maps(self.teacher, tiles)
        return merge(maps, self._on_grid(row_T), self._on_grid(column_T), self.grid, self.grid, self.resize)

    def _tile_maps(self, network: Network, tiles: Tensor) -> Tensor:
        head = map_head(network)
        if self.compat == "none":
            return head.maps(network.backbone(tiles))
        # The published code takes the four tiles of one crop at a time, and so do its batch norms.
        crops = tiles.reshape(4, -1, *tiles.shape[1:]).unbind(1)
        maps = [head.maps(network.backbone(crop_4Ktt)) for crop_4Ktt in crops]
        return torch.stack(maps, 1).flatten(0, 1)

    def _on_grid(self, place_T: Tensor) -> Tensor:
        """The cut in positions of the feature map: rounded to the nearest, down in the published code."""
        half = 0 if self.compat == "original" else self.size // 2
        return ((place_T * self.grid + half) // self.size).clamp(1, self.grid - 1)

    @torch.no_grad()
    def update(self, step: int) -> None:
        if self.teacher is not None:
            share = 1 - min(1 - 1 / (step + 1), self.decay)
            mine: list[Tensor] = list(self.teacher.parameters())
            live: list[Tensor] = list(self.network.parameters())
            torch._foreach_lerp_(mine, live, share)

    def own_state(self) -> dict[str, Tensor]:
        return {} if self.teacher is None else {f"teacher.{n}": p.data for n, p in self.teacher.named_parameters()}


def single_labels(targets_TC: Tensor, class_T: Tensor, valid_T: Tensor) -> Tensor:
    """Ternary labels of crops that show one class each: 1 for it, 0 for the others, -1 where the image's label is
    ignored, and all -1 for a crop that does not count."""
    mine_TC = class_T[:, None] == torch.arange(targets_TC.shape[1], device=class_T.device)
    label_TC = torch.where(targets_TC < 0, targets_TC, mine_TC.to(targets_TC.dtype))
    return torch.where(valid_T[:, None], label_TC, -1)


def reconstruction(maps_TCHW: Tensor, merged_TCHW: Tensor, label_TC: Tensor) -> Tensor:
    """Mean absolute difference on the maps of the present classes, divided by all C x H x W (methods.md 5.4), and by
    the number of crops that count: those with a label other than -1."""
    counted_T = (label_TC >= 0).any(1)
    apart_TC = (maps_TCHW - merged_TCHW).abs().mean((2, 3)) * (label_TC == 1)
    return apart_TC.mean(1).sum() / counted_T.sum().clamp(min=1)


def _teacher_of(network: Network) -> Network:
    """A copy without gradients. Its batch norms always use the statistics of the batch and keep none of their own, as
    the published teacher, which stays in training mode."""
    teacher = copy.deepcopy(network).requires_grad_(False).train()
    for module in teacher.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return teacher


def _other_classifier(teacher: Network, seed: int) -> None:
    """The published teacher is a network of its own until the first step has copied the student."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + 1)
        map_head(teacher).reset_classifier()


def _check(size: int, grid: int, stride: int, tile: int, points: int, top: int) -> None:
    if grid < 2:
        raise UserError(
            f"model.size: found {size}, expected at least {2 * size}: method oass puts four tiles together on the "
            f"feature map, which has {grid} x {grid} positions"
        )
    if not stride <= tile <= size:
        raise UserError(f"method.tile: found {tile}, expected {stride} (the backbone's stride) to {size} (model.size)")
    for key, value in (("method.points", points), ("method.top", top)):
        if value < 1:
            raise UserError(f"{key}: found {value}, expected at least 1")


def _check_shares(
    alpha: float, alpha_ramp: float, patch_weight: float, decay: float, distance: float, radius: float
) -> None:
    for key, value in (("method.alpha", alpha), ("method.patch_weight", patch_weight)):
        if value < 0:
            raise UserError(f"{key}: found {value}, expected at least 0")
    for key, value in (("method.alpha_ramp", alpha_ramp), ("method.radius", radius)):
        if not 0 <= value <= 1:
            raise UserError(f"{key}: found {value}, expected a share, 0 to 1")
    if not 0 < distance < 0.5:
        raise UserError(f"method.distance: found {distance}, expected a share of the side above 0 and below 0.5")
    if not 0 <= decay < 1:
        raise UserError(f"method.decay: found {decay}, expected 0 or more and below 1")
