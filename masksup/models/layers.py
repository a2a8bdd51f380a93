"""The layers of a backbone, from its stem up, as timm counts them for layer-wise learning rates."""

from typing import Any

import torch
from timm.models._manipulate import group_with_matcher

from masksup.errors import UserError
from masksup.models.backbones import Backbone


def layer_scales(backbone: Backbone, decay: float) -> dict[str, tuple[str, float]]:
    """Of each parameter of `backbone`: the suffix that names its layer, and ``decay ** layers between it and the top``.

    The top is the layer of timm's own classifier, as in `timm.optim.param_groups_layer_decay`, although it was taken
    off here. Empty for a decay of 1. UserError for a model for which timm knows no layers.
    """
    if decay == 1:
        return {}
    model: Any = backbone.model
    if not hasattr(model, "group_matcher"):
        raise UserError(f"optim.layer_decay: found {decay:g}, but timm knows no layers of {backbone.name}; set it to 1")
    classifier = model.pretrained_cfg.get("classifier") or "head"
    top = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
    named = iter([*model.named_parameters(), (top, torch.empty(0))])
    layers: dict[str, int] = group_with_matcher(
        named, model.group_matcher(coarse=False), return_values=False, reverse=True
    )
    return {
        f"model.{name}": (f"_layer{layers[name]}", decay ** (layers[top] - layers[name]))
        for name, _ in model.named_parameters()
    }
