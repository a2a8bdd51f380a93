"""The features that a run with a frozen backbone trains its head on."""

from pathlib import Path

import torch

from masksup.base.log import log
from masksup.config.schema import Config
from masksup.data.split import Part, Source
from masksup.engine.features import FeatureFolder, FrozenFeatures
from masksup.models.network import Network
from masksup.runtime.ranks import Group
from masksup.training.run import Built, Run


def make_sure_of_room(
    config: Config, source: Source, network: Network, run_dir: Path, device: torch.device, dtype: torch.dtype
) -> str | None:
    """What the features that are not kept yet will take, for the log; None where all are. UserError for too much."""
    parts = _parts(config, source).values()
    return FeatureFolder(_folder(config, run_dir), network, config, device, dtype).room(parts)


def frozen_features(run: Run) -> dict[str, FrozenFeatures]:
    """Computed by all ranks where they are not there yet, and read by all. Collective."""
    group = run.group
    group.beat_without_limit("computing or reading the features of the frozen backbone")
    with group.together():
        if group.first:
            place = run.folder.path
            room = make_sure_of_room(run.config, run.source, run.network, place, run.device, run.dtype)
            if room is not None:
                log.info(room)
    return open_features(run, run.folder.path, group)


def _folder(config: Config, run_dir: Path) -> Path:
    return Path(config.model.features) if config.model.features else run_dir / "features"


def _parts(config: Config, source: Source) -> dict[str, tuple[Part, bool]]:
    """Each part by name, and whether training may look at its mirror images."""
    parts = {"train": source.train, "eval": source.eval, "test": source.test}
    return {
        name: (part, name == "train" and config.augment.flip > 0) for name, part in parts.items() if part is not None
    }


def open_features(built: Built, run_dir: Path, group: Group) -> dict[str, FrozenFeatures]:
    """Of each part, computed where they are not kept yet. Collective."""
    folder = FeatureFolder(_folder(built.config, run_dir), built.network, built.config, built.device, built.dtype)
    parts = _parts(built.config, built.source)
    return {name: folder.features(part, flip, log.info, group) for name, (part, flip) in parts.items()}
