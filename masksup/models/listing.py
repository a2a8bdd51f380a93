"""Which backbones there are: timm's models with their weights."""

from functools import cache
from typing import Any

import timm
import torch

from masksup.errors import UserError, nearest

_BUILT = 24  # of more than so many, parameters are not counted, which takes a moment each


def families() -> list[dict[str, Any]]:
    """Rows: each of timm's families with how many models and weights it has, and one of them."""
    rows = []
    for module in timm.list_modules():
        models, weights = timm.list_models(module=module), timm.list_models(module=module, pretrained=True)
        if models:
            row = {"family": module, "models": len(models), "weights": len(weights), "such as": (weights or models)[0]}
            rows.append(row)
    return rows


def matching(pattern: str) -> list[dict[str, Any]]:
    """Rows: the models whose name holds `pattern` or fits it (* and ?), once with each of their weights.

    UserError with the nearest names where there is none.
    """
    names = _names(pattern)
    if not names:
        raise UserError(f"models: timm has none like '{pattern}'; {_near(pattern)}")
    count = len({name.partition(".")[0] for name in names}) <= _BUILT
    return [_row(name, count) for name in names]


def _near(pattern: str) -> str:
    stem = pattern.strip("*?").partition("_")[0]
    close = [name for name in timm.list_models() if name.startswith(stem[:4])]
    return nearest(pattern, close) if 0 < len(close) <= 100 else "masksup models lists the families"


def _names(pattern: str) -> list[str]:
    glob = pattern if "*" in pattern or "?" in pattern else f"*{pattern}*"
    with_weights = timm.list_models(glob, pretrained=True)
    have = {name.partition(".")[0] for name in with_weights}
    return sorted([*with_weights, *(name for name in timm.list_models(glob) if name not in have)])


def _row(name: str, count: bool) -> dict[str, Any]:
    card = timm.models.get_pretrained_cfg(name)
    facts: dict[str, Any] = vars(card) if card is not None and card.has_weights else {}
    size = facts.get("input_size")
    return {
        "backbone": name, "parameters": _millions(name.partition(".")[0]) if count else None,
        "px of the weights": size[-1] if size else None, "licence": facts.get("license"),
    }  # fmt: skip


@cache
def _millions(architecture: str) -> str | None:
    """Parameters without the classifier, counted without memory for them."""
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture, pretrained=False, num_classes=0)
    except (TypeError, AssertionError, ValueError, RuntimeError, NotImplementedError):
        return None  # a run that names it is told why
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:,.1f} M"
