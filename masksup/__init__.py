"""Training service for multi-label image recognition. Importing it loads nothing heavy."""

import os
import typing

if typing.TYPE_CHECKING:
    from masksup.loaded import Model

__version__ = "0.1.0"


def load(path: str | os.PathLike[str], weights: "typing.Literal['auto', 'live', 'ema']" = "auto") -> "Model":
    """The model in a run folder, a checkpoint or an archive of `masksup pack`, ready to `predict(images)`.

    weights: live or ema (moving average); auto: those that the run was scored with. Verified first; reading executes
    nothing. Raises `masksup.errors.UserError`, a ValueError, for whatever is wrong with it.
    """
    from pathlib import Path

    from masksup.loaded import load as load_model

    return load_model(Path(path), weights)
