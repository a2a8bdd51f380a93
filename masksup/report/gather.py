"""Everything a report says of one run: read from its folder, and its predictions computed once and kept there."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import read_json, read_sealed, refuse_special, written_whole
from masksup.base.log import log
from masksup.base.words import counted
from masksup.config.schema import Evaluation
from masksup.data.index import open_index
from masksup.data.split import Part, open_source, refuse_other_classes, refuse_other_range, whole
from masksup.decisions.decisions import CALIBRATION, Decisions
from masksup.errors import UserError
from masksup.evaluation.collect import Outputs
from masksup.evaluation.scores import evaluate
from masksup.metrics.pairs import Labels
from masksup.report.cost import Cost, cost_of
from masksup.runtime.metrics_rows import read_rows
from masksup.saved.decisions_of import decisions_for
from masksup.saved.open import Trained, open_trained
from masksup.saved.outputs import predict_alone
from masksup.saved.running import AS_TRAINED, Running

FOLDER = "report"

# Shapes: N samples, C classes.


@dataclass(frozen=True)
class Subject:
    """One run before anything is computed: what its folder says of it, and what it is scored on."""

    name: str
    """On the page."""
    trained: Trained
    rules: Evaluation
    """By which the summary is made, where `--data` was given."""
    which: str
    """Which weights the scores are of: best, last, or the chosen ones where `--data` was given."""
    part: Part
    scores: dict[str, Any] | None
    """The summary of `part` in the result; None where `--data` was given."""
    result: dict[str, Any] | None
    rows: list[dict[str, Any]]
    """Of `metrics.jsonl`."""
    cost: Cost | None
    decisions: Decisions
    calibration: dict[str, Any] | None


@dataclass(frozen=True)
class Gathered(Subject):
    """The same with its predictions. `summary` is what `masksup eval` gives for `part`; `probabilities_NC` are those
    that `decisions` makes of the logits; labels are -1 where an image could not be read."""

    summary: dict[str, Any]
    outputs: Outputs
    probabilities_NC: NDArray[np.float64]
    labels_NC: Labels
    remarks: tuple[str, ...]

    @cached_property
    def present_NC(self) -> NDArray[np.bool_]:
        """Which classes are predicted."""
        return self.decisions.predicted(self.probabilities_NC)


def open_subject(
    path: Path, name: str, data: Path | None, rules: Evaluation | None = None, running: Running = AS_TRAINED
) -> Subject:
    """Read a run, called `name` on the page, with the scores of its result, or to be scored on the index `data` by
    `rules` (None: its own). UserError for a run without any scores, or with nothing to report on.
    """
    trained = open_trained(path).run_as(running)
    run = trained.run
    result = None if run is None else _result(run)
    part, scored = _part(trained, result, data, path)
    _refuse_without_positives(path, part, part.labels_NC)
    decisions = decisions_for(trained)
    which, scores = "chosen", None
    if scored is not None:
        assert result is not None
        which = "best" if "best" in result else "last"
        scores = result[which][scored]
    return Subject(
        name, trained, rules or trained.config.eval, which, part, scores, result,
        [] if run is None else read_rows(run / "metrics.jsonl"),
        None if run is None or result is None else cost_of(run, result), decisions,
        None if run is None else kept_calibration(run, decisions),
    )  # fmt: skip


def gather(subject: Subject) -> Gathered:
    """Label the samples, or take the logits that an earlier report kept, and score them where the result does not."""
    trained, part = subject.trained, subject.part
    outputs = _outputs(trained, part)
    labels_NC = np.where(outputs.broken_N[:, None], np.int8(-1), part.labels_NC)
    _refuse_without_positives(trained.checkpoint, part, labels_NC)
    summary = subject.scores
    if summary is None:
        config = trained.config.model_copy(update={"eval": subject.rules})
        summary = evaluate(outputs, part, config, resamples=subject.rules.bootstrap)
        summary["protocol"] |= {"weights": trained.weights, "checkpoint_sha256": trained.sha256}
        summary["protocol"]["checkpoint"] = trained.checkpoint
    return Gathered(
        **vars(subject), summary=summary, outputs=outputs, labels_NC=labels_NC,
        probabilities_NC=subject.decisions.probabilities(outputs.logits_NC),
        remarks=tuple(_remarks(trained, summary)),
    )  # fmt: skip


def _refuse_without_positives(where: Path | str, part: Part, labels_NC: Labels) -> None:
    if not (labels_NC == 1).any():
        raise UserError(f"{where}: {part.title} holds no label that is present, so there is nothing to report")


def _result(run: Path) -> dict[str, Any] | None:
    if not (run / "result.json").exists():
        return None
    result = read_json(run / "result.json", "the scores of a run")
    if not isinstance(result.get("last"), dict):
        raise UserError(f"{run / 'result.json'}: not written by a training of this program")
    return result


def _part(trained: Trained, result: dict[str, Any] | None, data: Path | None, path: Path) -> tuple[Part, str | None]:
    """What is reported on, and its name in the result; None for an index that the user names."""
    if data is not None:
        given = whole(open_index(data))
        refuse_other_classes("--data", given.index, trained.classes, f"in {trained.checkpoint}")
        refuse_other_range("--data", given.index, trained.reading.pixel_range, f"in {trained.checkpoint}")
        return given, None
    if result is None and path.is_file():
        raise UserError(f"{path}: a packed model holds no scores; name an index to score it on with --data")
    if result is None:
        raise UserError(
            f"{path}: found no result.json, so this run has no evaluation yet; finish its training, or name an index "
            "to score it on with --data"
        )
    scores = result["best"] if "best" in result else result["last"]
    name = next((name for name in ("test", "eval") if name in scores), None)
    if name is None:
        raise UserError(
            f"{path}: its configuration names no data.eval or data.test, so it was never evaluated; name an index to "
            "score it on with --data"
        )
    source = open_source(trained.config.data, trained.config.seed)
    scored = source.test if name == "test" else source.eval
    assert scored is not None
    if scored.index.hash != scores[name]["protocol"]["index"]:
        raise UserError(f"{scored.index.folder}: changed since {path} was scored on it; score it again with --data")
    return scored, name


def _outputs(trained: Trained, part: Part) -> Outputs:
    """Logits of the whole part: those kept in the run folder if they are of these weights and data, else computed."""
    if trained.run is None:
        return predict_alone(trained, part)
    folder = trained.run / FOLDER
    chosen = "" if part.chosen is None else f"-{len(part)}"
    file = folder / f"logits-{trained.sha256[:12]}-{trained.weights}-{part.index.hash[:12]}{chosen}.npz"
    if file.exists():
        kept = kept_outputs(file, part)
        if kept is not None:
            return kept
    log.info(f"{trained.checkpoint}: labelling {counted(len(part), 'sample')} of {part.title}")
    outputs = predict_alone(trained, part)
    try:
        folder.mkdir(exist_ok=True)
        with written_whole(file, ".npz") as partial:
            np.savez(partial, logits=outputs.logits_NC, broken=outputs.broken_N)
    except OSError as error:
        log.warning(f"{folder}: not kept for the next report: {error.strerror}")
    return outputs


def kept_outputs(file: Path, part: Part) -> Outputs | None:
    """What an earlier report kept, of which the zip file has checksums; None where it is damaged, which is said."""
    refuse_special(file)
    try:
        with np.load(file, allow_pickle=False) as kept:
            found = Outputs(kept["logits"], kept["broken"])
    except Exception as error:  # a damaged zip file, or the head of an array in it, fails in any way
        log.warning(f"{file}: cannot be read ({error!r}); labelling again")
        return None
    shapes = found.logits_NC.shape, found.broken_N.shape
    types = found.logits_NC.dtype.str, found.broken_N.dtype.str
    if shapes != ((len(part), len(part.index.classes)), (len(part),)) or types != ("<f4", "|b1"):
        log.warning(f"{file}: is of other samples or classes; labelling again")
        return None
    return found


def kept_calibration(run: Path, decisions: Decisions) -> dict[str, Any] | None:
    """What `masksup calibrate` found, if it is what decides."""
    if decisions.fitted is None or not (run / CALIBRATION).exists():
        return None
    try:
        facts = read_sealed(run / CALIBRATION, "what masksup calibrate found", "run masksup calibrate again")
        fit = facts["fitted"], facts["aim"], {name: row["threshold"] for name, row in facts["classes"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{run / CALIBRATION}: cannot be read ({error!r}); run masksup calibrate again") from None
    # The two files are written one after the other: a kill between them leaves facts of an earlier fit.
    decides = vars(decisions.fitted), decisions.aim, dict(zip(decisions.classes, decisions.thresholds))
    return facts if fit == decides else None


def _remarks(trained: Trained, summary: dict[str, Any]) -> list[str]:
    remarks = [f"{trained.note}: these scores say nothing about photographs"] if trained.note == "synthetic" else []
    if trained.note and trained.note != "synthetic":
        remarks.append(trained.note)
    protocol = summary["protocol"]
    if protocol.get("checkpoint_sha256") not in (None, trained.sha256):
        remarks.append(
            f"the scores are of {protocol['checkpoint']}, which is gone; curves and pictures are of "
            f"{trained.checkpoint}"
        )
    if protocol["compat"] != "none":
        remarks.append(f"scored by the rules of the original {protocol['compat']} code")
    return remarks
