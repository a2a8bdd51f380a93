"""The end of a search: the chosen setting is trained on all images, and gets its thresholds from held-out outputs."""

import json
import shlex
from pathlib import Path
from typing import Any

from masksup.base.log import log, start_logging
from masksup.calibration.aims import parse_aim
from masksup.calibration.calibrate import Readable, fit_to
from masksup.calibration.cross_validation import Plan
from masksup.config.load import load_config
from masksup.config.yaml_text import write_yaml
from masksup.evaluation.kept import Stopped
from masksup.saved.open import open_trained
from masksup.selection.climb import Climb
from masksup.training.train import train

_LEAST = 50  # positives of a class with a threshold of its own, as in `masksup calibrate`


def write_winner(search: Climb, train_index: Path, test_index: Path | None) -> Path:
    """The configuration that repeats the choice without the search: one file, or two where it begins with a head."""
    winner, file = search.winner, search.out / "winner.yaml"
    data: dict[str, Any] = {"train": str(train_index.resolve())}
    if test_index is not None:
        data["test"] = str(test_index.resolve())
    settings, steps = {**winner.settings, "data": data}, []
    if winner.starts_from is not None:
        below = next(rung for rung in search.rungs if rung.name == winner.starts_from)
        settings["model"] = {**settings["model"], "weights": str((search.out / "start").resolve())}
        steps.append([search.file(below), search.out / "start"])
    steps.append([file, search.out / "run"])
    commands = [shlex.join(["masksup", "train", str(a), *search.overrides, "--run-dir", str(b)]) for a, b in steps]
    head = "".join(f"# {line}\n" for line in (f"{winner.title}; chosen by masksup auto. To repeat it:", *commands))
    file.write_text(head + write_yaml(settings), encoding="utf-8")
    return file


def train_winner(search: Climb, winner_yaml: Path) -> Path:
    """The run folder of the chosen setting, trained on all of `data.train`. Stopped at a signal."""
    winner, run_dir = search.winner, search.out / "run"
    features = [*search.overrides, f"model.features={json.dumps(str(search.out / 'features'))}"]
    if winner.starts_from is not None:
        below = next(rung for rung in search.rungs if rung.name == winner.starts_from)
        _train(search.file(below), search.out / "start", features)
    _train(winner_yaml, run_dir, features if winner.settings["model"].get("frozen") else search.overrides)
    return run_dir


def _train(file: Path, run_dir: Path, overrides: list[str]) -> None:
    status = train(load_config(file, overrides)[0], run_dir)
    start_logging()
    if status != 0:
        raise Stopped


def calibrate_winner(search: Climb, run_dir: Path) -> None:
    """Thresholds for F1 from the outputs of the folds: those of images that each run had not seen."""
    trained, held, folds = open_trained(run_dir), search.held[search.winner.name], search.facts.folds
    positives = int((held.labels_NC == 1).sum())
    if positives < _LEAST:
        log.warning(f"{positives} labels are present, too few to fit thresholds to; the run keeps its own, 0.5")
        return
    plan = Plan(parse_aim("f1", len(trained.classes)), "platt", _LEAST, "mixed", folds, trained.config.seed)
    title = f"{search.facts.title}, each of {folds} folds held out"
    samples = Readable(title, search.facts.index, held.logits_NC, held.labels_NC, held.image_N)
    fit_to(trained, samples, plan, 200, {})
