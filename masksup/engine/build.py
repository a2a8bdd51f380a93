"""From a configuration to a method on a device, with its weights."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from masksup.config import Config
from masksup.data.source import Part
from masksup.errors import UserError
from masksup.losses import LOSSES
from masksup.methods import METHODS
from masksup.methods.method import Method
from masksup.models.network import Network, build_network
from masksup.models.weights import load_weights


@dataclass(frozen=True)
class Weights:
    """Where the first weights came from: the file or checkpoint, its hash, and a line for the log."""

    source: str
    sha256: str
    line: str


def new_network(config: Config, classes: int) -> Network:
    """A network whose random weights are a function of the seed."""
    model = config.model
    torch.manual_seed(config.seed)
    return build_network(
        model.backbone, model.size, model.head.name, model.head.options, classes, model.mean, model.std,
        model.grad_checkpointing, model.backbone_options,
    )  # fmt: skip


def first_weights(config: Config, network: Network, classes: tuple[str, ...]) -> Weights:
    """Fill a new network with what `model.weights` names: a backbone file, or a run of ours with its head."""
    from masksup.trained import is_run, open_trained  # it builds networks too

    source = config.model.weights
    if not is_run(Path(source)):
        report = load_weights(network.backbone, source)
        return Weights(report.source, report.sha256, report.line())
    trained = open_trained(Path(source))
    own, other = network.state_dict(), trained.network.state_dict()
    fitting = {name: value for name, value in other.items() if name in own and own[name].shape == value.shape}
    head_fits = trained.classes == classes and all(n in fitting for n in own if n.startswith("head."))
    wrong = [name for name in own if name.startswith("backbone.") and name not in fitting]
    if wrong:
        raise UserError(f"model.weights: {source}: is of another backbone ({len(wrong)} tensors differ: {wrong[0]})")
    kept = {name: value for name, value in fitting.items() if head_fits or name.startswith("backbone.")}
    network.load_state_dict(kept, strict=False)
    head = "backbone and head" if head_fits else "backbone (the head is new: other classes or another head)"
    return Weights(source, trained.sha256, f"weights: {head} of {trained.checkpoint}, {trained.weights}")


def new_method(config: Config, network: Network, classes: int, train: Part | None) -> Method:
    """The method around a network. `train` gives the class counts that some losses weigh by; None: no training."""
    labels_NC = np.zeros((0, classes), np.int8) if train is None else train.labels_NC
    present_C, absent_C = (torch.from_numpy((labels_NC == value).sum(0)) for value in (1, 0))
    loss = LOSSES.resolve(config.loss.name)(present_C, absent_C, **config.loss.options)
    method: Method = METHODS.resolve(config.method.name)(network, loss, **config.method.options)
    if train is not None:
        method.prepare(config.seed)
    return method


def freeze(network: Network) -> None:
    """Leave only the head trainable."""
    network.backbone.requires_grad_(False)
    network.backbone.eval()
