"""Any timm model as a trunk: images to one feature map, at any input size, with its own normalisation."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Literal, Self

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.base.words import reason
from masksup.errors import UserError
from masksup.models.last_stage import unstride_last_stage
from masksup.models.reflection import reflect_by_slices

# Shapes: B images, D feature width, H x W positions, N tokens.

# Arguments of timm that this module decides, or that would read weights from somewhere unchecked.
RESERVED = frozenset(
    {"model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
    | {"features_only", "num_classes", "global_pool", "in_chans", "img_size", "scriptable", "exportable"}
)

Layout = Literal["BDHW", "BHWD", "BND"]

ADAPTERS = (".lora_a", ".lora_b")  # ends of the names of what `masksup.models.lora` adds


class Backbone(nn.Module):
    """A timm model without classifier and pooling; `model` holds it, under timm's own parameter names.

    width: channels of the map.  stride: input pixels a position.  size: side of the input it was built for.
    grid: side of the map at that size.  mean, std: of the weights' own card, for pixels in [0, 1].
    norm_kind: "batch" if most normalisation layers are batch norms, else "layer".  octaves: scales that it sees.
    """

    def __init__(self, model: nn.Module, name: str, size: int, shape: tuple[int, ...], octaves: int = 1) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self.size = size
        self.octaves = octaves
        self.prefix_tokens = int(getattr(model, "num_prefix_tokens", 0))
        self.layout, self.width, self.grid = _read_layout(model, name, shape, self.prefix_tokens)
        self.stride = _stride(size, self.grid)
        card: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        self.mean: tuple[float, ...] = tuple(card["mean"])
        self.std: tuple[float, ...] = tuple(card["std"])
        self.norm_kind: Literal["batch", "layer"] = _norm_kind(model)
        self.frozen_batch_norm = False
        """Whether batch norm keeps its statistics in training, too; its scales and offsets are trained nevertheless."""
        self.adapted = False
        """Whether `masksup.models.lora` has frozen it and added to its layers."""
        self.in_forward = False  # false while checkpointed layers are computed again

    @property
    def batch_norms(self) -> list[nn.Module]:
        """All batch norms, timm's own kinds of them included."""
        return [module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.frozen_batch_norm:
            for module in self.batch_norms:
                module.eval()
        return self

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalised float images to the feature map x_BDHW, rows from the top, columns from the left.

        Of several octaves, the mean of their maps, each spread over the positions of the largest.
        """
        x_BDHW = self._map(images_BCHW)
        side = x_BDHW.shape[2:]
        for _ in range(1, self.octaves):
            images_BCHW = F.avg_pool2d(images_BCHW, 2)
            x_BDHW = x_BDHW + F.interpolate(self._map(images_BCHW), side)
        return x_BDHW / self.octaves if self.octaves > 1 else x_BDHW

    def _map(self, images_BCHW: Tensor) -> Tensor:
        self.in_forward = True
        x: Tensor = self.model(images_BCHW)
        self.in_forward = False
        if self.layout == "BND":
            # Class and register tokens come first; patches follow row by row.
            x_BDN = x[:, self.prefix_tokens :].transpose(1, 2)
            return x_BDN.reshape(x.shape[0], self.width, self.grid, self.grid)
        return x.permute(0, 3, 1, 2) if self.layout == "BHWD" else x


def build_backbone(
    name: str,
    size: int,
    *,
    grad_checkpointing: bool,
    options: dict[str, Any],
    last_stage_stride: Literal[1] | None = None,
    octaves: int = 1,
) -> Backbone:
    """The timm model `name` with random weights, for square images of `size` pixels.

    Position embeddings and windows are laid out for `size`. The model keeps every layer up to its pooling and
    applies a norm that stands after the pooling (ConvNeXt) at every position instead, so that every parameter
    takes part. `options` are passed to timm (drop_path_rate, ...). `last_stage_stride` 1 doubles the map of a ResNet.
    With `octaves` it also sees each image at half the size, a quarter of it, and so on.
    Raises UserError for an unknown name or option, a size the model cannot take, or no spatial map.
    """
    check_name(name)
    reserved = RESERVED.intersection(options)
    if reserved:
        raise UserError(f"model.backbone_options: '{min(reserved)}' is decided elsewhere, expected it absent")
    arguments = {**options, **size_arguments(name, size, options)}
    # A rehearsal without memory or arithmetic: the shape of the map, or the reason why there is none.
    with torch.device("meta"):
        rehearsal = _create(name, arguments, last_stage_stride).eval()
        _refuse_cut_patches(rehearsal, name, size)
        shape = _output_shape(rehearsal, name, size)
        _refuse_octaves(rehearsal, name, size, octaves)
    backbone = Backbone(_create(name, arguments, last_stage_stride), name, size, shape, octaves)
    if grad_checkpointing:
        _checkpoint_gradients(backbone)
    return backbone


def check_name(name: str) -> None:
    """Raises UserError with the nearest names if timm has no architecture or no weights tag of this name."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() names them"
        raise UserError(f"model.backbone: timm has no model '{architecture}'; {hint}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        known = f"known: {', '.join(tags)}" if tags else f"expected '{architecture}' without a tag"
        raise UserError(f"model.backbone: {architecture} has no weights '{tag}'; {known}")


def size_arguments(name: str, size: int, options: dict[str, Any]) -> dict[str, Any]:
    """timm's `img_size` argument, for the models whose layers are laid out for one size."""
    with torch.device("meta"):
        model = _create(name, options)
    # A derived model may hand its keywords to its base.
    kinds = [kind for kind in type(model).__mro__ if kind.__module__.startswith("timm.")]
    takes_size = any("img_size" in inspect.signature(kind).parameters for kind in kinds)
    return {"img_size": size} if takes_size else {}


def _create(name: str, arguments: dict[str, Any], last_stage_stride: Literal[1] | None = None) -> nn.Module:
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **arguments)
    except TypeError as error:
        if arguments:
            raise UserError(f"model.backbone_options: {name} does not take them: {reason(error)}") from error
        raise UserError(f"model.backbone: {name} cannot be built without its classifier") from error
    except (AssertionError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"model.backbone: {name} cannot be built with {arguments}: {reason(error)}") from error
    assert isinstance(model, nn.Module)
    reflect_by_slices(model)
    if last_stage_stride is not None:
        unstride_last_stage(model, name)
    return model


def _refuse_cut_patches(model: nn.Module, name: str, size: int) -> None:
    """UserError where patches do not fill the image, whose right and lower border nobody would see."""
    side = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    side = side[0] if isinstance(side, tuple) else side
    if isinstance(side, int) and size % side:
        fitting = [near for near in (size - size % side, size + side - size % side) if near]
        raise UserError(
            f"model.size: found {size}, but the patches of {name} are {side} px wide; expected "
            f"{' or '.join(map(str, fitting))}"
        )


def _output_shape(model: nn.Module, name: str, size: int) -> tuple[int, ...]:
    try:
        output = model(torch.empty(1, 3, size, size, device="meta"))
    except (AssertionError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"model.size: {name} cannot take {size} pixels: {reason(error)}") from error
    return tuple(output.shape) if isinstance(output, Tensor) else ()


def _refuse_octaves(model: nn.Module, name: str, size: int, octaves: int) -> None:
    """UserError where a model does not take the image at each of its scales."""
    if octaves == 1:
        return
    smallest, rest = divmod(size, 2 ** (octaves - 1))
    if rest:
        raise UserError(
            f"model.octaves: found {octaves}, but model.size {size} is no multiple of {2 ** (octaves - 1)}, by "
            "which the smallest scale is divided; choose such a size"
        )
    try:
        patches = len(_output_shape(model, name, smallest)) == 3  # laid out for one size, whatever timm lets through
    except UserError as error:
        raise UserError(f"model.octaves: found {octaves}: {error}; expected 1") from None
    if patches:
        raise UserError(f"model.octaves: found {octaves}, but {name} is laid out for one size; expected 1")


def _read_layout(model: nn.Module, name: str, shape: tuple[int, ...], prefix_tokens: int) -> tuple[Layout, int, int]:
    """(order of the output's dimensions, width, side of the map), from the shape of one output."""
    widths = {getattr(model, "num_features", None), getattr(model, "head_hidden_size", None)}
    if len(shape) == 3 and shape[2] in widths:
        side = round((shape[1] - prefix_tokens) ** 0.5)
        if side**2 == shape[1] - prefix_tokens and side > 0:
            return "BND", shape[2], side
    if len(shape) == 4:
        last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        width = shape[3] if last else shape[1]
        height = shape[1] if last else shape[2]
        if width in widths and height == shape[2 if last else 3]:
            return ("BHWD" if last else "BDHW"), width, height
    found = f"an output of shape {list(shape)}" if shape else "several outputs"
    raise UserError(f"model.backbone: {name} gives {found}, expected a square feature map or patch tokens")


def _stride(size: int, grid: int) -> int:
    """Input pixels a position. Convolutions halve and round up: 48 px at stride 32 are a map of 2. Patches divide."""
    halved = (2**power for power in range(size.bit_length() + 1))
    return next((stride for stride in halved if -(-size // stride) == grid), size // grid)


def _norm_kind(model: nn.Module) -> Literal["batch", "layer"]:
    layers = [module for module in model.modules() if getattr(module, "weight", None) is not None]
    norms = [type(layer) for layer in layers if "norm" in type(layer).__name__.lower()]
    batch = sum(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in norms)
    return "batch" if 2 * batch > len(norms) else "layer"


def _checkpoint_gradients(backbone: Backbone) -> None:
    """Layers forget their activations and are computed again in backward, by timm's own means."""
    try:
        backbone.model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AssertionError, AttributeError) as error:
        raise UserError(f"model.grad_checkpointing: {backbone.name} does not support it, expected false") from error
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(_statistics_once(backbone, module.momentum))


def _statistics_once(backbone: Backbone, momentum: float | None) -> Callable[[nn.Module, Any], None]:
    """A hook that keeps the second computation of a batch norm from moving its running statistics again."""

    def before(module: nn.Module, _: Any) -> None:
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        module.momentum = momentum if backbone.in_forward else 0.0
        if module.training and not backbone.in_forward and module.num_batches_tracked is not None:
            module.num_batches_tracked -= 1  # about to be counted again

    return before


def takes_any_side(name: str, size: int) -> bool:
    """Whether a timm model built for images of `size` px takes larger ones. UserError where it cannot be built."""
    backbone = build_backbone(name, size, grad_checkpointing=False, options={})
    try:
        map_side(backbone, 2 * size, "model.size")
    except UserError:
        return False
    return True


def has_linear_layers(name: str) -> bool:
    """Whether there is one in the backbone of a timm model, for LoRA to add to. UserError where it cannot be built."""
    check_name(name)
    with torch.device("meta"):
        return any(isinstance(module, nn.Linear) for module in _create(name, {}).modules())


def map_side(backbone: Backbone, side: int, key: str, noun: str = "") -> int:
    """Side of the map of an image of `side` pixels, from a rehearsal. UserError about `key` where there is none."""
    weights = {name: torch.empty_like(p, device="meta") for name, p in backbone.named_parameters()}
    weights |= {name: torch.empty_like(b, device="meta") for name, b in backbone.named_buffers()}
    pixels = torch.empty(2, 3, side, side, device="meta")
    training = backbone.training
    try:
        x_BDHW = torch.func.functional_call(backbone.eval(), weights, (pixels,))
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{key}: {backbone.name}, built for {backbone.size} pixels, cannot take {noun}{side} ({reason(error)}); "
            f"expected {backbone.size}"
        ) from error
    finally:
        backbone.train(training)
    assert x_BDHW.shape[2] == x_BDHW.shape[3]
    return int(x_BDHW.shape[2])
