"""A method as one graph: uint8 images in, logits out, for any number of images (`torch.export`)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from masksup.base.words import reason
from masksup.errors import UserError
from masksup.methods.localise import crop_resize
from masksup.methods.mcar import find_mcar
from masksup.methods.method import Method

# Shapes: B images, S x S pixels, C classes, N regions.

MOST_IMAGES = 65_535  # of one batch, in the constraints of the graph


class Deployed(nn.Module):
    """What is exported: logits_BC, and of MCAR also `boxes` (int64 BN4, pixels of the input, ends excluded) and
    `box_classes` (int64 BN), where it looked a second time and for which classes."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.looks_twice = find_mcar(method)

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("logits",) if self.looks_twice is None else ("logits", "boxes", "box_classes")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 images_B3SS to the outputs, in their order."""
        if self.looks_twice is None:
            return (self.method.predict(images),)
        seen = self.looks_twice.predict_regions(images)
        return seen.fused_BC, seen.boxes_BN4, seen.classes_BN

    def with_regions(self, images: Tensor, boxes_BN4: Tensor) -> Tensor:
        """The logits_BC of MCAR when it looks at given regions."""
        assert self.looks_twice is not None
        network = self.looks_twice.network
        pixels_B3SS = network.normalize(images)
        regions_K3SS = crop_resize(pixels_B3SS, boxes_BN4)
        global_BC, local_KC = (network.head(network.backbone(pixels)) for pixels in (pixels_B3SS, regions_K3SS))
        local_BC = local_KC.reshape(*boxes_BN4.shape[:2], -1).amax(1)
        return torch.maximum(global_BC, local_BC)


class _Half(nn.Module):
    """A backbone that computes in half precision whatever it is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x: Tensor = self.model(images_BCHW.half())
        return x


def in_half_precision(method: Method) -> Method:
    """A copy whose backbone computes in fp16. Normalisation, heads and where MCAR looks stay in fp32, as in training:
    they are a small part of the work, and logits rounded to 11 bits would tie."""
    copied = copy.deepcopy(method)
    backbone = copied.network.backbone
    _without_checkpointing(backbone.model)
    backbone.model = _Half(backbone.model)
    return copied


def trace(deployed: Deployed, size: int) -> ExportedProgram:
    """The graph of a model in evaluation mode on the CPU. UserError if the backbone cannot be traced."""
    network = deployed.method.network
    _without_checkpointing(network.backbone.model)
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # more than one, which would be taken for a constant
    batch = Dim("batch", min=1, max=MOST_IMAGES)
    try:
        with torch.no_grad():
            program: ExportedProgram = torch.export.export(deployed.eval(), (images,), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch.export fails in many ways on code that branches on data or shapes
        raise UserError(
            f"model.backbone: {network.backbone.name} cannot be exported for any number of images: {reason(error)}"
        ) from error
    return program


def with_known_operators(program: ExportedProgram) -> ExportedProgram:
    """The same program in operators that ONNX has: running maxima and minima as shifts and maxima, exactly."""
    replaced = {torch.ops.aten.cummax.default: running_maximum, torch.ops.aten.cummin.default: running_minimum}
    if not any(node.target in replaced for node in program.graph.nodes):
        return program
    rewritten: ExportedProgram = program.run_decompositions(replaced)
    return rewritten


def running_maximum(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`torch.cummax`: the largest value up to each place along `dim`, and where it was, of equals the last."""
    values = _running(x, dim)
    shape = [1] * x.ndim
    shape[dim] = x.shape[dim]
    place = torch.arange(x.shape[dim], device=x.device).view(shape)
    return values, _running(torch.where(x == values, place, 0), dim)


def running_minimum(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`torch.cummin`, alike."""
    values, places = running_maximum(-x, dim)
    return -values, places


def _running(x: Tensor, dim: int) -> Tensor:
    least = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    step, length = 1, x.shape[dim]
    while step < length:  # after k rounds each place knows the 2^k places up to it
        before = torch.cat([torch.full_like(x.narrow(dim, 0, step), least), x.narrow(dim, 0, length - step)], dim)
        x = torch.maximum(x, before)
        step *= 2
    return x


def _without_checkpointing(model: Any) -> None:
    """Activations are recomputed in training alone; its hooks on batch norms cannot be traced."""
    if not getattr(model, "grad_checkpointing", False):
        return
    model.set_grad_checkpointing(False)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module._forward_pre_hooks.clear()
