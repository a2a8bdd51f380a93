"""Weights to begin with, as if of another training."""

from pathlib import Path

import torch

from masksup.models.backbones import build_backbone

BACKBONE = "test_resnet"
LINEAR_BACKBONE = "mobilevit_xxs"  # with linear layers beside convolutions and batch norm


def write_weights(file: Path, name: str = BACKBONE, seed: int = 1) -> Path:
    """Weights of the network `name` whose batch norms have seen something."""
    torch.manual_seed(seed)
    backbone = build_backbone(name, 32, grad_checkpointing=False, options={}).train()
    for _ in range(3):
        backbone(torch.randn(8, 3, 32, 32))
    torch.save(backbone.model.state_dict(), file)
    return file
