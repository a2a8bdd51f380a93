"""Training service for multi-label image recognition. Importing it loads nothing heavy.

`train`, `evaluate` and `load` raise `masksup.errors.UserError`, a ValueError, for a mistake that you can mend.
"""

import os
import typing

if typing.TYPE_CHECKING:
    from masksup.api.finished import FinishedRun
    from masksup.saved.api import Model

__version__ = "0.1.0"

_Path = str | os.PathLike[str]
_Weights: typing.TypeAlias = "typing.Literal['auto', 'live', 'ema']"
_Device: typing.TypeAlias = "typing.Literal['auto', 'cpu', 'cuda'] | None"


def train(
    config: _Path | typing.Mapping[str, typing.Any], settings: typing.Mapping[str, typing.Any] | None = None,
    run_dir: _Path | None = None,
) -> "FinishedRun":  # fmt: skip
    """Train, or go on with, a run as `masksup train` does; a finished one is given at once.

    config: a YAML file, such as a recipe of `configs/`, or a mapping of what would stand in one. settings: values in
    place of those, `{"optim.lr": 0.1}`. run_dir: the run folder; by default `runs/NAME` of the file. Ctrl-C saves and
    raises KeyboardInterrupt; SIGTERM and SIGUSR2 save and raise `masksup.errors.JobError`. The same call goes on.
    """
    from masksup.api.train import train as train_now

    return train_now(config, settings, run_dir)


def evaluate(
    model: _Path, data: _Path | None = None, *, ap_rule: str | None = None, compat: str | None = None,
    threshold: float | None = None, bootstrap: int | None = None,
    masked: "typing.Literal['low', 'high'] | None" = None, weights: _Weights = "auto", device: _Device = None,
    batch: int | None = None,
) -> dict[str, typing.Any]:  # fmt: skip
    """The scores of `masksup eval`, in percent, with their protocol: `mAP`, `CF1`, `OF1`, `AP` of each class, ...

    model: a run folder, a checkpoint, an archive, or what `train` gave. data: an index of `masksup prepare`; by default
    the run's `data.test`, else its `data.eval`. ap_rule, compat, threshold, bootstrap: in place of the run's `eval`.
    masked: hide a part of every image.
    """
    from masksup.api.evaluate import evaluate as evaluate_now
    from masksup.saved.running import Running

    rules = {"ap_rule": ap_rule, "compat": compat, "threshold": threshold, "bootstrap": bootstrap}
    return evaluate_now(model, data, rules, masked, weights, Running(device, batch))


def load(path: _Path, weights: _Weights = "auto", device: _Device = None, batch: int | None = None) -> "Model":
    """The model in a run folder, a checkpoint or an archive of `masksup pack`, ready to `predict(images)`.

    weights: live or ema (moving average); auto: those that the run was scored with. device and batch (images a forward
    pass): None takes those of the run, and the CPU where its GPU is not here. Verified first; reading executes
    nothing.
    """
    from pathlib import Path

    from masksup.saved.api import load as load_model

    return load_model(Path(path), weights, device, batch)
