"""A run, checkpoint or archive scored on an index, with tables, files and the protocol."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import refuse_unwritable_file, write_json, written_whole
from masksup.base.fitted import fitted
from masksup.base.log import console, log, start_logging
from masksup.base.place import find_place
from masksup.base.signals import stop_requested
from masksup.base.words import counted, listed
from masksup.data.index import open_index
from masksup.data.masks import FixedMasks, Level, evaluation_masks
from masksup.data.split import Part, open_source, refuse_other_classes, refuse_other_range, whole
from masksup.decisions.decisions import Decisions
from masksup.engine.precision import set_numerics
from masksup.errors import UserError
from masksup.evaluation.collect import Collector, Counted, Counts, Outputs, Pairs
from masksup.evaluation.forward import keeps_pairs
from masksup.evaluation.kept import Stopped, Unfinished, outputs_key
from masksup.evaluation.scores import evaluate
from masksup.metrics.precision_recall import decision_scores
from masksup.metrics.tables import headline, tables, without_negatives
from masksup.output.voc_server import ServerFiles, server_files, usual_competition, write_server_files
from masksup.runtime.join import joined, told_once
from masksup.runtime.ranks import Group, Vote
from masksup.saved.decisions_of import decisions_for
from masksup.saved.open import Trained, WhichWeights, open_trained
from masksup.saved.outputs import outputs_for, ready
from masksup.saved.running import Running


@dataclass(frozen=True)
class EvalFiles:
    """What `masksup eval` writes, beside what it prints."""

    json_file: Path | None = None
    predictions: Path | None = None
    voc_server: Path | None = None
    competition: str | None = None
    """Of the VOC server, comp1 or comp2; None: what the weights allow."""

    @property
    def every_score(self) -> bool:
        """Whether the scores of all pairs are written, and so have to be kept."""
        return self.predictions is not None or self.voc_server is not None


def scores_of(
    path: Path, data: Path | None, weights: WhichWeights, overrides: dict[str, Any], wanted: EvalFiles,
    masked: Level | None, running: Running, *, shown: bool = True,
) -> dict[str, Any] | None:  # fmt: skip
    """`masksup eval`: score a run or checkpoint on an index and print the tables, if they are to be `shown`.

    masked: hide part of every image under masks of this level, fixed for each sample id.
    The ranks of the job that this process is one of share the work; rank 0 prints and writes.

    Returns the scores with their protocol; None if it was asked to stop: what is done is kept beside the model until
    the same command goes on.
    """
    place = find_place()
    start_logging(rank=place.rank)
    with told_once(place):
        if masked is not None and wanted.voc_server is not None:
            raise UserError("--write-voc-server: given with --masked, but the server scores whole images; drop one")
        trained = open_trained(path, weights).run_as(running)
        rules = trained.config.eval.model_copy(update={k: v for k, v in overrides.items() if v is not None})
        trained = _with(trained, rules)
        part = _part_to_score(trained, data)
        decisions = decisions_for(trained) if place.rank == 0 else None
    with joined(place, trained.config) as group:
        return _eval(trained, part, decisions, wanted, masked, _kept_beside(path, trained), group, shown)


def _kept_beside(path: Path, trained: Trained) -> Path:
    """Where an evaluation of the model in `path` that is cut off keeps what it has done: apart from a run's own."""
    named = path.resolve()
    return trained.run / "unfinished-eval" if trained.run else named.with_name(f"{named.name}.unfinished")


def _eval(
    trained: Trained, part: Part, decisions: Decisions | None, wanted: EvalFiles, masked: Level | None, kept_in: Path,
    group: Group, shown: bool,
) -> dict[str, Any] | None:  # fmt: skip
    """`decisions`: on rank 0."""
    files, summary = None, None
    with group.together():
        if group.first:
            files = _files(trained, part, wanted)
        set_numerics(trained.config.precision, group.place.local_world)
    log.info(f"{trained.checkpoint} ({trained.weights} weights) on {part.title}: {counted(len(part), 'sample')}")
    masks = None if masked is None else evaluation_masks(masked, trained.config.model.size, _ids(part))
    config, vote = trained.config, Vote(group)
    counts_only = not (wanted.every_score or keeps_pairs(part, config))
    key = partial(outputs_key, trained.network, config, part, masks, counts_only, *ready(trained))
    unfinished = Unfinished(kept_in, key, group, vote, config.checkpoint.every_minutes, to_the_end=True)
    try:
        collector: Collector[Outputs | Counted] = Counts(part, config) if counts_only else Pairs(part, config)
        outputs = outputs_for(collector, trained, group, masks, unfinished)
    except Stopped:
        _stopped(unfinished, vote, group)
        return None
    vote.drain()
    group.beat_without_limit("computing scores")
    if outputs is not None:
        summary = _summary(trained, part, decisions, masks, outputs)
        _write(wanted, files, summary, outputs, part)  # first, because a reader of what is shown may leave
        unfinished.discard()
        if shown:
            _show(summary, trained)
    told: dict[str, Any] = group.broadcast(summary)  # the others leave when this is done, however long it takes
    return told


def _summary(
    trained: Trained, part: Part, decisions: Decisions | None, masks: FixedMasks | None, outputs: Outputs | Counted
) -> dict[str, Any]:
    summary = evaluate(outputs, part, trained.config, resamples=trained.config.eval.bootstrap)
    summary["protocol"] |= {**_who(trained), "masked": None if masks is None else masks.protocol}
    summary["decided"] = _decided(decisions, outputs, part)
    return summary


def _stopped(unfinished: Unfinished, vote: Vote, group: Group) -> None:
    name = max(group.all(stop_requested() or ""))
    vote.drain()
    then = "begins from the first image" if unfinished.refused else "goes on from here"
    log.info(f"stopped by {name}; the same command {then}")


def _decided(decisions: Decisions | None, outputs: Outputs | Counted, part: Part) -> dict[str, Any] | None:
    """The scores of the labels that `masksup predict` gives, where thresholds were fitted to these weights."""
    if decisions is None or decisions.fitted is None or isinstance(outputs, Counted):
        return None
    labels_NC = np.where(outputs.broken_N[:, None], np.int8(-1), part.labels_NC)
    predicted_NC = decisions.predicted(decisions.probabilities(outputs.logits_NC)) & ~outputs.broken_N[:, None]
    return {
        "aim": decisions.aim, "calibration": decisions.calibration.kind, "fitted_on": decisions.fitted.data,
        **decision_scores(predicted_NC, labels_NC),
    }  # fmt: skip


def _ids(part: Part) -> list[str]:
    return [part.index.id(int(sample)) for sample in part.samples]


def _files(trained: Trained, part: Part, wanted: EvalFiles) -> ServerFiles | None:
    """Make sure that all that is wanted can be written, before anything is computed."""
    for option, file in (("--json", wanted.json_file), ("--predictions", wanted.predictions)):
        if file is not None:
            refuse_unwritable_file(option, file)
    if wanted.voc_server is None:
        return None
    return server_files(wanted.voc_server, part.index, wanted.competition or usual_competition(trained.config))


def _write(
    wanted: EvalFiles, files: ServerFiles | None, summary: dict[str, Any], outputs: Outputs | Counted, part: Part
) -> None:
    if wanted.json_file is not None:
        write_json(wanted.json_file, summary)
        log.info(f"scores with their protocol: {wanted.json_file}")
    if isinstance(outputs, Counted):
        return
    if wanted.predictions is not None:
        write_predictions(wanted.predictions, outputs.logits_NC, part)
        log.info(f"scores of every sample: {wanted.predictions}")
    if files is not None:
        write_server_files(files, _ids(part), part.index.classes, _confidence(outputs))
        log.info(
            f"for the VOC server: {files.folder / files.prefix}<class>.txt, {counted(len(part.index.classes), 'file')}"
        )


def _show(summary: dict[str, Any], trained: Trained) -> None:
    if summary["labelled_pairs"] == 0:
        log.info("nothing to score: no label of these samples is known")
    else:
        log.info(headline(summary))
        for table in tables(summary, console.width):
            console.print(fitted(table, console.width), soft_wrap=False)
    _remarks(summary, trained)


def _confidence(outputs: Outputs) -> NDArray[np.float64]:
    """Probabilities; the server wants a number for each image, so what could not be read shows no class."""
    if outputs.broken_N.any():
        log.warning(f"{counted(int(outputs.broken_N.sum()), 'image')} could not be read: confidences of 0")
    return np.where(outputs.broken_N[:, None], 0.0, outputs.probabilities_NC)


def write_predictions(file: Path, logits_NC: NDArray[np.float32], part: Part) -> None:
    """An .npz with ids N, classes C, logits float32 N x C and labels int8 N x C (1, 0, -1 ignored)."""
    ids = np.array(_ids(part))
    with written_whole(file, ".npz") as partial:
        np.savez(partial, ids=ids, classes=np.array(part.index.classes), logits=logits_NC, labels=part.labels_NC)


def _with(trained: Trained, rules: Any) -> Trained:
    return replace(trained, config=trained.config.model_copy(update={"eval": rules}))


def _part_to_score(trained: Trained, data: Path | None) -> Part:
    if data is not None:
        part = whole(open_index(data))
        refuse_other_classes("--data", part.index, trained.classes, f"in {trained.checkpoint}")
        refuse_other_range("--data", part.index, trained.reading.pixel_range, f"in {trained.checkpoint}")
        return part
    named = trained.config.data
    if named.test is None and named.eval is None and not named.folds:
        raise UserError("--data: not given, and the run's configuration names no data.eval or data.test")
    source = open_source(named, trained.config.seed)
    scored = source.test or source.eval
    assert scored is not None
    return scored


def _who(trained: Trained) -> dict[str, Any]:
    return {
        "weights": trained.weights, "checkpoint": trained.checkpoint, "checkpoint_sha256": trained.sha256,
        "step": trained.step, "epoch": trained.epoch,
    }  # fmt: skip


def _remarks(summary: dict[str, Any], trained: Trained) -> None:
    decided = summary["decided"]
    if decided is not None and decided["F1"] is not None:
        scores = ", ".join(f"{key} {decided[key]:.2f}" for key in ("F1", "CF1", "OF1", "OP", "OR"))
        log.info(f"decided as predict does, for {decided['aim']}: {scores}, {decided['labels']:.2f} labels an image")
    if summary["unscored"] and summary["labelled_pairs"]:
        log.info(f"without positives, so not scored: {listed(summary['unscored'])}")
    if summary["without_negatives"]:
        log.info(without_negatives(summary))
    protocol = summary["protocol"]
    masked = protocol["masked"]
    under = f", under {masked['level']} masks ({masked['masks_sha256'][:12]})" if masked else ""
    log.info(
        f"protocol: {protocol['data']}, {protocol['resolution']} px, {trained.weights} weights of epoch "
        f"{trained.epoch:g}, checkpoint {trained.sha256[:12]}, index {protocol['index'][:12]}{under}"
    )
