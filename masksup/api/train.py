"""Training from Python: the way of `masksup train`, which raises where the command exits."""

import os
import signal
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from masksup.api.finished import FinishedRun
from masksup.base import signals
from masksup.base.place import find_place
from masksup.config.load import load_settings
from masksup.errors import JobError, UserError
from masksup.exits import STOPPED, told_plainly
from masksup.runtime.join import told_once
from masksup.runtime.run_folder import refuse_taken
from masksup.training.train import train as train_run

Settings = Mapping[str, Any]


def train(
    config: str | os.PathLike[str] | Settings, settings: Settings | None, run_dir: str | os.PathLike[str] | None
) -> FinishedRun:
    """See `masksup.train`."""
    place = find_place()
    with told_plainly(), signals.caught("finishes this step, saves and leaves" if place.first else ""):
        with told_once(place) if place.world > 1 else nullcontext():
            given = config if isinstance(config, Mapping) else Path(config)
            loaded = load_settings(given, settings or {})
            folder = _folder(given, run_dir)
        if place.world == 1:
            refuse_taken(folder)
        status = train_run(loaded, folder, place)
        name = signals.stop_requested()
    if status != STOPPED:
        return FinishedRun(folder)
    if name == signal.SIGINT.name:
        raise KeyboardInterrupt
    raise JobError(f"{folder}: stopped by {name or 'another rank'}; the same call goes on from there")


def _folder(config: Path | Settings, run_dir: str | os.PathLike[str] | None) -> Path:
    if run_dir is not None:
        return Path(run_dir)
    if isinstance(config, Path):
        return Path("runs") / config.stem
    raise UserError("run_dir: not given; settings without a file have no name, so name a run folder, such as runs/mine")
