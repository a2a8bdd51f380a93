"""Losses over logits_BC and ternary targets_BC (1 present, 0 absent, -1 ignored)."""

from masksup.registry import Registry

LOSSES = Registry(
    kind="loss",
    key="loss.name",
    entries={
        "bce": "masksup.losses.bce:BinaryCrossEntropy",
        "asl": "masksup.losses.asl:AsymmetricLoss",
        "focal": "masksup.losses.focal:FocalLoss",
    },
)
