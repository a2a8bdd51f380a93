"""The end of a search: the chosen setting is trained on all images, and gets its thresholds from held-out outputs."""

import json
import shlex
from pathlib import Path
from typing import Any

from masksup.base.files import write_atomically
from masksup.base.log import log, start_logging
from masksup.calibration import LEAST_POSITIVES
from masksup.calibration.aims import parse_aim
from masksup.calibration.calibrate import Readable, fit_to
from masksup.calibration.cross_validation import FitPlan
from masksup.config.auto import read_recorded
from masksup.config.load import load_config
from masksup.config.yaml_text import write_yaml
from masksup.engine.precision import choose_threads
from masksup.evaluation.kept import Stopped
from masksup.saved.open import open_trained
from masksup.selection.out_of_fold import train_aside
from masksup.selection.search import Climb
from masksup.training.train import train


def write_winner(search: Climb, train_index: Path, test_index: Path | None) -> Path:
    """The configuration that repeats the choice without the search: one file, or two where it begins with a head.

    It names the threads, for another number gives other last bits.
    """
    winner, file = search.winner, search.out / "winner.yaml"
    threads = _threads(search)
    data: dict[str, Any] = {"train": str(train_index.resolve())}
    if test_index is not None:
        data["test"] = str(test_index.resolve())
    settings = {**winner.settings, "data": data, "precision": {"threads": threads}}
    again, words = search.out / "again", search.overrides
    commands = []
    if winner.starts_from is not None:
        settings["model"] = {**settings["model"], "weights": str(_start(search).resolve())}
        below, start = search.file(search.rung(winner.starts_from)), search.out / "again-start"
        commands.append([str(below), f"precision.threads={threads}", *words, "--run-dir", str(start)])
        words = [*words, f"model.weights={start}"]
    commands.append([str(file), *words, "--run-dir", str(again)])
    lines = [shlex.join(["masksup", "train", *command]) for command in commands]
    head = "".join(f"# {line}\n" for line in (f"{winner.title}; chosen by masksup auto. To repeat it:", *lines))
    write_atomically(file, head + write_yaml(settings))
    return file


def _threads(search: Climb) -> int:
    """Those of the run, where it has begun; else those that it will have."""
    recorded = search.run / "config.yaml"
    if recorded.exists():
        return read_recorded(recorded).precision.threads
    return choose_threads(load_config(search.file(search.winner), search.overrides)[0].precision)


def _start(search: Climb) -> Path:
    """The run that the chosen one begins with."""
    return search.out / f"start-of-{search.winner.name}"


def train_winner(search: Climb, winner_yaml: Path) -> None:
    """Train the chosen setting on all of `data.train`. Stopped at a signal."""
    winner, features = search.winner, f"model.features={json.dumps(str(search.out / 'features'))}"
    if winner.starts_from is not None:
        below = search.rung(winner.starts_from)
        log.info(f"{below.title}: trained on all images, for {winner.name} begins with it")
        train_aside(load_config(search.file(below), [*search.overrides, features])[0], _start(search))
    log.info(f"{winner.title}: trained on all images")
    frozen = [features] if winner.settings["model"].get("frozen") else []
    _train(winner_yaml, search.run, [*search.overrides, *frozen])


def _train(file: Path, run_dir: Path, overrides: list[str]) -> None:
    status = train(load_config(file, overrides)[0], run_dir)
    start_logging()
    if status != 0:
        raise Stopped


def calibrate_winner(search: Climb) -> None:
    """Thresholds for F1 from the outputs of the folds: those of images that each run had not seen."""
    trained, held, folds = open_trained(search.run), search.held[search.winner.name], search.facts.folds
    positives = int((held.labels_NC == 1).sum())
    if positives < LEAST_POSITIVES:  # some are absent, or nothing could have been judged
        log.warning(
            f"no thresholds were fitted: {positives} of {held.labels_NC.size} labels are present, at least "
            f"{LEAST_POSITIVES} have to be; each class is predicted from probability 0.5"
        )
        return
    plan = FitPlan(parse_aim("f1", len(trained.classes)), "platt", LEAST_POSITIVES, "mixed", folds, trained.config.seed)
    title = f"{search.facts.title}, each of {folds} folds held out"
    samples = Readable(title, search.facts.index, held.logits_NC, held.labels_NC, held.image_N)
    fit_to(trained, samples, plan, 200, {})
