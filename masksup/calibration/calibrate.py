"""Thresholds and calibration of a run, fitted on its evaluation split and kept with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import refuse_unwritable, write_sealed
from masksup.base.log import log, start_logging
from masksup.base.next_steps import tell_next
from masksup.base.words import counted
from masksup.calibration.aims import parse_aim
from masksup.calibration.cross_validation import RULES, FitPlan, FoldScores, cross_validate, sharing_by
from masksup.calibration.show import show
from masksup.calibration.thresholds import LEVEL, Bounds, bootstrap_bounds
from masksup.data.folds import first_copies
from masksup.data.index import open_index
from masksup.data.split import Part, open_source, refuse_other_classes, refuse_other_range, samples_in_both, whole
from masksup.decisions.decisions import CALIBRATION, Decisions, Fitted, Origin, write_decisions
from masksup.engine.precision import set_numerics
from masksup.errors import UserError, nearest
from masksup.evaluation.collect import Outputs
from masksup.metrics.pairs import Labels, check_finite, probabilities
from masksup.metrics.precision_recall import decision_scores
from masksup.metrics.reliability import calibration_scores
from masksup.saved.decisions_of import default_threshold
from masksup.saved.open import Trained, WhichWeights, open_trained
from masksup.saved.outputs import predict_alone
from masksup.saved.running import Running

FORMAT = "masksup calibration 1"
FEW = 100  # samples


@dataclass(frozen=True)
class CalibrationOptions:
    """What was asked for."""

    aim: str
    method: str
    rule: str
    least: int
    folds: int
    resamples: int
    given: tuple[str, ...]
    """NAME=P: thresholds that are set by hand."""


@dataclass(frozen=True)
class Readable:
    """The N samples of a part whose images could be read, and the image that each lies in."""

    title: str
    """Of the part."""
    index: str
    """Hash of its index."""
    logits_NC: NDArray[np.float32]
    labels_NC: Labels
    image_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels_NC)


def calibrate(
    path: Path, data: Path | None, weights: WhichWeights, wanted: CalibrationOptions, running: Running
) -> dict[str, Any]:
    """Fit, print what it is worth on samples it was not fitted on, and keep it in the run folder.

    Writes `decisions.json`, by which `predict` and exported models decide, and `calibration.json`, the scores and the
    reliability diagrams behind it. Returns what the latter holds.
    """
    start_logging()
    _check(wanted)
    trained = open_trained(path, weights).run_as(running)
    aim = parse_aim(wanted.aim, len(trained.classes))
    given = _given(wanted.given, trained)
    if trained.run is None:
        raise UserError(f"{path}: is not in a run folder, but the thresholds are written there; expected a run folder")
    refuse_unwritable(trained.run)
    part = part_to_fit(trained, data)
    set_numerics(trained.config.precision)
    log.info(f"{trained.checkpoint} ({trained.weights} weights) on {part.title}: {counted(len(part), 'sample')}")
    samples = _readable(part, predict_alone(trained, part))
    _refuse_too_little(samples, wanted)
    plan = FitPlan(aim, wanted.method, wanted.least, wanted.rule, wanted.folds, trained.config.seed)
    return fit_to(trained, samples, plan, wanted.resamples, given)


def fit_to(
    trained: Trained, samples: Readable, plan: FitPlan, resamples: int, given: dict[str, float]
) -> dict[str, Any]:
    """Fit to samples that a run has not learnt from, print what it is worth, and keep it in the run folder.

    `given`: thresholds that are set by hand. Returns what `calibration.json` holds.
    """
    assert trained.run is not None
    check_finite(samples.logits_NC)
    scores = cross_validate(plan, samples.logits_NC, samples.labels_NC, samples.image_N)
    bounds = bootstrap_bounds(
        plan.aim, scores.in_sample_NC, samples.labels_NC, sharing_by(plan.rule, samples.labels_NC, plan.least),
        samples.image_N, resamples, plan.seed,
    )  # fmt: skip
    decisions = _decisions(trained, samples, plan, scores, resamples).with_given(given)
    facts = _facts(trained, samples, plan, scores, resamples, bounds, decisions)
    show(facts)
    if len(samples) < FEW:
        low, high = bounds.shared
        log.warning(
            f"{counted(len(samples), 'sample')} are few: with others of this kind the shared threshold would lie "
            f"anywhere from {low:.2f} to {high:.2f}; expected {FEW} or more"
        )
    here = Path.cwd()
    run = trained.run.relative_to(here) if trained.run.is_relative_to(here) else trained.run  # as a person types it
    file = write_decisions(run, decisions)
    write_sealed(run / CALIBRATION, facts)
    log.info(f"kept: {file}, by which predict and exported models decide; {run / CALIBRATION}")
    tell_next(
        (("masksup", "predict", run, "PHOTOS", "--out", "labels.csv"), "labels by these thresholds"),
        (("masksup", "export", run, "--out", f"{trained.run.name}.onnx"), "one file that runs without torch"),
        (("masksup", "pack", run, "--out", f"{trained.run.name}.zip"), "one archive to share"),
    )
    return facts


def _check(wanted: CalibrationOptions) -> None:
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
    refuse_other_range("--data", part.index, trained.reading.pixel_range, f"in {trained.checkpoint}")
    for key, name in (("data.train", named.train), ("data.test", named.test)):
        if name is None:
            continue
        if not Path(name).is_dir():
            log.warning(f"{key}: {name} does not exist here, so it is not checked whether --data shares images with it")
            continue
        shared = samples_in_both(part, whole(open_index(Path(name))))
        if len(shared) and not (named.allow_leak and key == "data.train"):
            why = "was trained on" if key == "data.train" else "is tested on"
            raise UserError(
                f"--data: {len(shared)} of {counted(len(part), 'sample')} lie in images that the run {why} "
                f"({key}: {name}); expected images that it has not seen"
            )
    return part


def _readable(part: Part, outputs: Outputs) -> Readable:
    readable_N = ~outputs.broken_N
    image_N = first_copies(part.index)[part.samples][readable_N]  # folds hold copies of a file together
    return Readable(part.title, part.index.hash, outputs.logits_NC[readable_N], part.labels_NC[readable_N], image_N)


def _refuse_too_little(samples: Readable, wanted: CalibrationOptions) -> None:
    title, labels_NC = samples.title, samples.labels_NC
    if not (labels_NC == 1).any() or not (labels_NC == 0).any():
        raise UserError(f"{title}: found no label that is present, or none that is absent; nothing can be fitted")
    positives = int((labels_NC == 1).sum())
    if positives < wanted.least:
        raise UserError(
            f"{title}: found {counted(positives, 'label')} that {'is' if positives == 1 else 'are'} present in "
            f"{counted(len(samples), 'sample')}, too few to fit a threshold to; expected at least {wanted.least} "
            "(--min-positives); label more, or keep the threshold of the run"
        )
    if len(samples) < wanted.folds:  # last: fewer folds do not help who has too few labels
        raise UserError(f"--folds: found {wanted.folds}, but {title} has {len(samples)} readable samples")


def _decisions(trained: Trained, samples: Readable, plan: FitPlan, scores: FoldScores, resamples: int) -> Decisions:
    fallback = {
        "shared": "one threshold for all classes",
        "per-class": "a threshold for each class with a positive",
        "mixed": f"classes with fewer than {plan.least} positives share a threshold",
        "shrunk": f"thresholds drawn to the shared one, half way at {plan.least} positives",
    }[plan.rule]
    protocol = (
        f"{fallback}; calibration of classes with fewer than {plan.least} positives fitted to all of them together; "
        f"checked by {plan.folds} folds; {resamples} resamples of the images for the bounds; ignored labels left out; "
        f"{trained.config.model.size} px"
    )
    fitted = Fitted(
        trained.checkpoint, trained.sha256, trained.step, trained.weights, samples.title, samples.index,
        len(samples), protocol,
    )  # fmt: skip
    own: tuple[Origin, Origin] = ("shared", "own")
    return Decisions(
        trained.classes, tuple(scores.fit.thresholds_RC[0].tolist()), scores.calibration,
        tuple(own[int(mine)] for mine in scores.fit.own_RC[0]), str(plan.aim), fitted,
    )  # fmt: skip


def _facts(
    trained: Trained, samples: Readable, plan: FitPlan, scores: FoldScores, resamples: int, bounds: Bounds,
    decisions: Decisions,
) -> dict[str, Any]:  # fmt: skip
    """Everything that is known of the fit, ready for JSON."""
    before_NC, labels_NC = probabilities(samples.logits_NC), samples.labels_NC
    usual = default_threshold(trained)
    plain = decision_scores(before_NC >= usual, labels_NC)
    rules = {f"{usual:g}, uncalibrated": {"held_out": plain, "in_sample": plain}}
    for rule in RULES:
        rules[rule] = {
            "held_out": decision_scores(scores.held_out[rule], labels_NC),
            "in_sample": decision_scores(scores.in_sample[rule], labels_NC),
        }
    assert decisions.fitted is not None
    return {
        "format": FORMAT, "aim": decisions.aim, "method": plan.method, "rule": plan.rule,
        "least_positives": plan.least, "folds": plan.folds, "seed": plan.seed, "resamples": resamples, "level": LEVEL,
        "fitted": vars(decisions.fitted), "rules": rules,
        "calibration": {
            "before": calibration_scores(before_NC, labels_NC),
            "after": calibration_scores(scores.held_out_NC, labels_NC),
            "after_in_sample": calibration_scores(scores.in_sample_NC, labels_NC),
        },
        "shared": {
            "threshold": _number(scores.fit.shared_R[0]), "bounds": [_number(end) for end in bounds.shared],
            "reached": bool(scores.fit.shared_reached_R[0]),
        },
        "classes": _class_rows(decisions, scores, bounds, scores.held_out[plan.rule], labels_NC),
    }  # fmt: skip


def _class_rows(
    decisions: Decisions, scores: FoldScores, bounds: Bounds, held_out_NC: NDArray[np.bool_], labels_NC: Labels
) -> dict[str, dict[str, Any]]:
    """Of each class its threshold, and precision and recall in percent where its fold was held out."""
    rows = {}
    for c, name in enumerate(decisions.classes):
        alone = decision_scores(held_out_NC[:, c : c + 1], labels_NC[:, c : c + 1])
        rows[name] = {
            "positives": int((labels_NC[:, c] == 1).sum()), "threshold": decisions.thresholds[c],
            "low": _number(bounds.low_C[c]), "high": _number(bounds.high_C[c]), "origin": decisions.origins[c],
            "precision": alone["OP"], "recall": alone["OR"], "F1": alone["F1"],
            "best_precision": _number(100 * scores.fit.best_precision_RC[0, c]),
        }  # fmt: skip
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
