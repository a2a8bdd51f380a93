"""The parts of one run, as data: made by `train`, read by everything that a step, a score or a save needs."""

from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class At:
    """Where a run is; saved with every checkpoint."""

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
    changed: list[dict[str, Any]] = field(default_factory=list)
    """Where the run went on with other operation that may change results: step, attempt, settings (old -> new)."""


@dataclass
class Run:
    """The parts of one run, made once and used by the functions below."""

    config: Config
    group: Group
    folder: RunFolder
    source: Source
    plan: Plan
    network: Network
    stepper: Stepper
    ema: MovingAverage | None
    features: dict[str, FrozenFeatures]
    broken: dict[str, BrokenImages]
    """Of each part: train, eval, test."""
    scored_method: Method
    """A copy for evaluation, so that scoring never touches what is trained."""
    record: Record
    saver: Saver
    at: At
    vote: Vote
    threads: int
    started_at: int
    """The step that this start begins with."""

    @property
    def whole(self) -> Network:
        """A network with all parameters of the one that is trained, which is empty under ZeRO 3. The copy is without
        the additions of LoRA, which ZeRO 3 does not do."""
        return self.network if self.config.model.lora.rank else self.scored_method.network
