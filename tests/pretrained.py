"""Weights to begin with, as if of another training."""

from pathlib import Path

import torch

from masksup.models.backbones import build_backbone

BACKBONE = "test_resnet"


def write_weights(file: Path) -> Path:
    """Weights of `BACKBONE` whose batch norms have seen something."""
    torch.manual_seed(1)
    backbone = build_backbone(BACKBONE, 32, grad_checkpointing=False, options={}).train()
    for _ in range(3):
        backbone(torch.randn(8, 3, 32, 32))
    torch.save(backbone.model.state_dict(), file)
    return file
