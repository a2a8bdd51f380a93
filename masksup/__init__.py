"""Training service for multi-label image recognition. Importing it loads nothing heavy."""

import os
import typing

if typing.TYPE_CHECKING:
    from masksup.saved.api import Model

__version__ = "0.1.0"


def load(
    path: str | os.PathLike[str], weights: "typing.Literal['auto', 'live', 'ema']" = "auto",
    device: "typing.Literal['auto', 'cpu', 'cuda'] | None" = None, batch: int | None = None,
) -> "Model":  # fmt: skip
    """The model in a run folder, a checkpoint or an archive of `masksup pack`, ready to `predict(images)`.

    weights: live or ema (moving average); auto: those that the run was scored with. device and batch (images a forward
    pass): None takes those of the run, and the CPU where its GPU is not here. Verified first; reading executes
    nothing. Raises `masksup.errors.UserError`, a ValueError, for whatever is wrong with it.
    """
    from pathlib import Path

    from masksup.saved.api import load as load_model

    return load_model(Path(path), weights, device, batch)
