"""`masksup calibrate`: thresholds and calibration of a run, fitted on its evaluation split and kept with it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from masksup.base.files import refuse_unwritable
from masksup.base.log import log, start_logging
from masksup.base.words import counted
from masksup.calibration.aims import parse_aim
from masksup.calibration.cross_validation import Plan
from masksup.calibration.of_run import Known, fit_to
from masksup.data.index import open_index
from masksup.data.split import Part, open_source, refuse_other_classes, samples_in_both, whole
from masksup.engine.precision import set_numerics
from masksup.errors import UserError, nearest
from masksup.metrics.pairs import Labels
from masksup.saved.open import Trained, WhichWeights, open_trained
from masksup.saved.outputs import predict_alone
from masksup.saved.running import AS_TRAINED, Running


@dataclass(frozen=True)
class Wanted:
    """What was asked for."""

    aim: str
    method: str
    rule: str
    least: int
    folds: int
    resamples: int
    given: tuple[str, ...]
    """NAME=P: thresholds that are set by hand."""


def run_calibrate(
    path: Path, data: Path | None, weights: WhichWeights, wanted: Wanted, running: Running = AS_TRAINED
) -> int:
    """Fit, print what it is worth on samples it was not fitted on, and keep it in the run folder.

    Writes `decisions.json`, by which `predict` and exported models decide, and `calibration.json`, the scores and the
    reliability diagrams behind it.
    """
    start_logging()
    _check(wanted)
    trained = open_trained(path, weights).run_as(running)
    aim = parse_aim(wanted.aim, len(trained.classes))
    given = _given(wanted.given, trained)
    if trained.run is None:
        raise UserError(f"{path}: lies in no run folder, where decisions are kept; expected a run folder")
    refuse_unwritable(trained.run)
    part = part_to_fit(trained, data)
    set_numerics(trained.config.precision)
    log.info(f"{trained.checkpoint} ({trained.weights} weights) on {part.title}: {len(part)} samples")
    outputs = predict_alone(trained, part)
    readable_N = ~outputs.broken_N
    logits_NC, labels_NC = outputs.logits_NC[readable_N], part.labels_NC[readable_N]
    _refuse_too_little(part, labels_NC, wanted)
    image_N = np.asarray(part.index.sample_image_N)[part.samples][readable_N].astype(np.int64)
    plan = Plan(aim, wanted.method, wanted.least, wanted.rule, wanted.folds, trained.config.seed)
    fit_to(trained, Known(part.title, part.index.hash, logits_NC, labels_NC, image_N), plan, wanted.resamples, given)
    return 0


def _check(wanted: Wanted) -> None:
    for option, found, fewest in (
        ("--min-positives", wanted.least, 1), ("--folds", wanted.folds, 2), ("--bootstrap", wanted.resamples, 20)
    ):  # fmt: skip
        if found < fewest:
            raise UserError(f"{option}: found {found}, expected at least {fewest}")


def _given(pairs: tuple[str, ...], trained: Trained) -> dict[str, float]:
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, number = pair.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = np.nan
        if not name or not 0 < found[name] < 1:
            raise UserError(f"--class: found '{pair}', expected NAME=P with a probability between 0 and 1")
        if name not in trained.classes:
            raise UserError(f"--class: no such class '{name}'; {nearest(name, trained.classes)}")
    return found


def part_to_fit(trained: Trained, data: Path | None) -> Part:
    """The evaluation part of a run, or the index `data`. UserError if there is none, or if the run learnt from it or
    is tested on it: thresholds of images that were trained on mean nothing, and those of the test part spoil it.
    """
    named = trained.config.data
    if data is None:
        if named.eval is None and not named.folds:
            raise UserError(
                f"{trained.checkpoint}: its configuration names no data.eval and no data.folds, so there is nothing "
                "to fit to; name an index that it was not trained or tested on with --data"
            )
        scored = open_source(named, trained.config.seed).eval
        assert scored is not None
        return scored
    part = whole(open_index(data))
    refuse_other_classes("--data", part.index, trained.classes, f"in {trained.checkpoint}")
    for key, name in (("data.train", named.train), ("data.test", named.test)):
        if name is None:
            continue
        if not Path(name).is_dir():
            log.warning(f"{key}: {name} is not here, so nobody checks whether --data shares images with it")
            continue
        shared = samples_in_both(part, whole(open_index(Path(name))))
        if len(shared) and not (named.allow_leak and key == "data.train"):
            why = "was trained on" if key == "data.train" else "is tested on"
            raise UserError(
                f"--data: {len(shared)} of {len(part)} samples lie in images that the run {why} ({key}: {name}); "
                "expected images that it has not seen"
            )
    return part


def _refuse_too_little(part: Part, labels_NC: Labels, wanted: Wanted) -> None:
    if len(labels_NC) < wanted.folds:
        raise UserError(f"--folds: found {wanted.folds}, but {part.title} has {len(labels_NC)} readable samples")
    if not (labels_NC == 1).any() or not (labels_NC == 0).any():
        raise UserError(f"{part.title}: found no label that is present, or none that is absent; nothing can be fitted")
    positives = int((labels_NC == 1).sum())
    if positives < wanted.least:
        raise UserError(
            f"{part.title}: found {counted(positives, 'label')} that {'is' if positives == 1 else 'are'} present in "
            f"{counted(len(labels_NC), 'sample')}, too few to fit a threshold to; expected at least {wanted.least} "
            "(--min-positives); label more, or keep the threshold of the run"
        )
