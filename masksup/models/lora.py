"""Low-rank adaptation (Hu et al., ICLR 2022, arXiv 2106.09685): linear layers that stay, with a trained addition."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from masksup.base.random import draws
from masksup.config.schema import Lora
from masksup.errors import UserError
from masksup.models.backbones import ADAPTERS, Backbone
from masksup.models.weight_files import Tensors

# Shapes: I features in, O features out, R the rank.


class LoraLinear(nn.Module):
    """W x + b of the layer `frozen`, plus `scale` B A x. B begins at zero, so that at first nothing is added.

    It has the weight of the sum for networks that look at a layer's weight and do not call it (EVA, BEiT, Swin V2).
    """

    def __init__(self, frozen: nn.Linear, rank: int, scale: float, draw: np.random.Generator) -> None:
        super().__init__()
        self.frozen, self.scale = frozen, scale
        bound = frozen.in_features**-0.5  # of torch's own linear layers
        a_RI = torch.from_numpy(draw.uniform(-bound, bound, (rank, frozen.in_features)))
        self.lora_a = nn.Parameter(a_RI.to(frozen.weight))
        self.lora_b = nn.Parameter(frozen.weight.new_zeros(frozen.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = F.linear(F.linear(x, self.lora_a) * self.scale, self.lora_b)
        return F.linear(x, self.frozen.weight, self.frozen.bias) + added

    @property
    def weight(self) -> Tensor:
        return self.frozen.weight + self.scale * (self.lora_b @ self.lora_a)

    @property
    def bias(self) -> Tensor | None:
        return self.frozen.bias

    @property
    def in_features(self) -> int:
        return self.frozen.in_features

    @property
    def out_features(self) -> int:
        return self.frozen.out_features


def add_lora(backbone: Backbone, settings: Lora, seed: int) -> str:
    """Freeze `backbone`, and put an addition to each chosen linear layer, in place. Returns a line for the log.

    A is a function of the seed and of the layer's number among those that are chosen. UserError where no layer, or not
    every name, fits, or the rank is above what a layer can take.
    """
    chosen = _chosen(backbone, settings)
    backbone.requires_grad_(False)
    for number, (path, layer) in enumerate(chosen.items()):
        added = LoraLinear(layer, settings.rank, settings.scale, draws(seed, number, "lora"))
        backbone.model.set_submodule(path, added)
    backbone.adapted = True
    kinds = ", ".join(sorted({path.rpartition(".")[2] for path in chosen}))
    return f"LoRA: rank {settings.rank}, alpha {settings.alpha:g}, on {len(chosen)} linear layers ({kinds})"


def _chosen(backbone: Backbone, settings: Lora) -> dict[str, nn.Linear]:
    """The layers to adapt, by their paths in timm's model."""
    linear = {path: layer for path, layer in backbone.model.named_modules() if isinstance(layer, nn.Linear)}
    if not linear:
        raise UserError(
            f"model.lora.rank: found {settings.rank}, but {backbone.name} has no linear layers to adapt; expected a "
            "transformer, or model.lora.rank=0"
        )
    names = [""] if settings.layers == "all" else settings.layers
    for name in names:
        if not any(_ends_in(path, name) for path in linear):
            kinds = ", ".join(sorted({path.rpartition(".")[2] for path in linear}))
            raise UserError(
                f"model.lora.layers: found {name}, but {backbone.name} has no linear layer of that name; expected all, "
                f"or some of {kinds}"
            )
    chosen = {path: layer for path, layer in linear.items() if any(_ends_in(path, name) for name in names)}
    for path, layer in chosen.items():
        most = min(layer.in_features, layer.out_features)
        if settings.rank > most:
            raise UserError(
                f"model.lora.rank: found {settings.rank}, but {path} of {backbone.name} maps {layer.in_features} "
                f"features to {layer.out_features}; expected at most {most}, or other model.lora.layers"
            )
    return chosen


def _ends_in(path: str, name: str) -> bool:
    """Whether `name` is the end of a path, in whole words; an empty one is the end of each."""
    return not name or f".{path}".endswith(f".{name}")


def base_state(backbone: Backbone) -> Tensors:
    """What the additions are made to: the tensors of the backbone as they are without `add_lora`, by timm's names."""
    state = backbone.model.state_dict().items()
    return {name.replace(".frozen.", "."): value for name, value in state if not name.endswith(ADAPTERS)}


def merged(base: Tensors, kept: Tensors, scale: float) -> Tensors:
    """The state of the plain network: that of `base_state`, with the additions in `kept` (of `Network.kept_state`).

    Computed in float64 on the CPU, wherever the tensors are, so that scores do not depend on where it is done.
    KeyError or RuntimeError where the two do not belong together.
    """
    whole = {f"backbone.model.{name}": value for name, value in base.items()}
    for name, value in kept.items():
        layer, _, kind = name.rpartition(".")
        if kind == "lora_a":
            weight_OI, b_OR = whole[f"{layer}.weight"], kept[f"{layer}.lora_b"]
            change_OI = scale * (b_OR.cpu().double() @ value.cpu().double())
            whole[f"{layer}.weight"] = (weight_OI.cpu().double() + change_OI).to(weight_OI.dtype)
        elif kind != "lora_b":
            whole[name] = value
    return whole
