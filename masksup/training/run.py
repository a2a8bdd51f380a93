"""One run, as data: made whole by `open_training`, read by everything that a step, a score or a save needs."""

from dataclasses import dataclass, field
from typing import Any

import torch

from masksup.config.schema import Config
from masksup.data.sampler import Plan
from masksup.data.split import Source
from masksup.engine.ema import MovingAverage
from masksup.engine.features import FrozenFeatures
from masksup.engine.step import Stepper
from masksup.methods.method import Method
from masksup.models.network import Network
from masksup.runtime.broken_images import BrokenImages
from masksup.runtime.metrics_log import Record
from masksup.runtime.ranks import Group, Vote
from masksup.runtime.run_folder import RunFolder
from masksup.runtime.saver import Saver
from masksup.runtime.shelf import Snapshots


@dataclass
class Progress:
    """What moves in a run, but for its tensors; saved with every checkpoint."""

    step: int = 0
    scored_step: int = 0
    best: dict[str, Any] | None = None
    """The best score so far whose weights are on disk, or on their way there, and the name of their checkpoint."""
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    broken: dict[str, list[int]] = field(default_factory=dict)
    """Samples with broken images that were met so far, by part."""
    solved: dict[str, Any] | None = None
    """How the head was solved (`solve.py`): `l2`, losses, gradient; None: it is stepped, or not solved yet."""
    base_sha256: str | None = None
    """Of the file in the run folder with what LoRA adapts (`masksup.saved.base_file`); None: without LoRA."""
    loss: float | None = None
    """Of the newest line of the log."""
    changed: list[dict[str, Any]] = field(default_factory=list)
    """Where the run went on with other operation that may change results: step, start, settings (old -> new)."""


@dataclass(frozen=True)
class Built:
    """What a configuration describes, built before the run folder is touched; ready for an engine."""

    config: Config
    """With a value wherever it said `auto`."""
    source: Source
    plan: Plan
    network: Network
    """The one that is trained; its parameters are empty under ZeRO 3."""
    method: Method
    scored_method: Method
    """A copy for evaluation, so that scoring never touches what is trained."""
    device: torch.device
    dtype: torch.dtype
    threads: int


@dataclass(frozen=True)
class Run(Built):
    """One start of a run. All of it stays as it is, but `progress` and the tensors of `stepper` and `ema`."""

    group: Group
    machine: dict[str, str]
    """The models of the ranks' devices and the versions of the libraries: with others, the last bits may differ."""
    vote: Vote
    folder: RunFolder
    record: Record
    saver: Saver
    stepper: Stepper
    ema: MovingAverage | None
    snapshots: Snapshots
    broken: dict[str, BrokenImages]
    """Of each part: train, eval, test."""
    features: dict[str, FrozenFeatures]
    """Of each part, where the backbone is frozen."""
    progress: Progress

    @property
    def whole(self) -> Network:
        """A network with all parameters of the one that is trained, which is empty under ZeRO 3. The copy is without
        the additions of LoRA, which ZeRO 3 does not do."""
        return self.network if self.config.model.lora.rank else self.scored_method.network
