"""A saved model scored on an index: by all ranks of a job, exact, and resumable where it is cut off."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from masksup.base.log import log, start_logging
from masksup.base.place import find_place
from masksup.base.signals import stop_requested
from masksup.base.words import counted
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
from masksup.runtime.join import joined, told_once
from masksup.runtime.ranks import Group, Vote
from masksup.saved.decisions_of import decisions_for
from masksup.saved.open import Trained, WhichWeights, open_trained
from masksup.saved.outputs import outputs_for, ready
from masksup.saved.running import Running

Deliver = Callable[[dict[str, Any], Outputs | Counted], None]


@dataclass(frozen=True)
class Scoring:
    """A model, what it is to be scored on, and the ranks that share the work."""

    trained: Trained
    part: Part
    masked: Level | None
    """Hide part of every image under masks of this level, fixed for each sample id."""
    decisions: Decisions | None
    """On rank 0."""
    kept_in: Path
    """Where what is done is kept if it is cut off: apart from what a run itself keeps."""
    group: Group


@contextmanager
def scoring_of(
    path: Path, data: Path | None, weights: WhichWeights, rules: dict[str, Any], masked: Level | None, running: Running
) -> Iterator[Scoring]:
    """The run, checkpoint or archive in `path`, open to be scored by the ranks of the job that this process is one of.

    data: an index; None: what the run names. rules: keys of `eval`; None: the run's own.
    """
    place = find_place()
    start_logging(rank=place.rank)
    with told_once(place):
        trained = open_trained(path, weights).run_as(running)
        changed = trained.config.eval.model_copy(update={k: v for k, v in rules.items() if v is not None})
        trained = replace(trained, config=trained.config.model_copy(update={"eval": changed}))
        part = _part_to_score(trained, data)
        decisions = decisions_for(trained) if place.rank == 0 else None
    with joined(place, trained.config) as group:
        yield Scoring(trained, part, masked, decisions, _kept_beside(path, trained), group)


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


def _kept_beside(path: Path, trained: Trained) -> Path:
    named = path.resolve()
    return trained.run / "unfinished-eval" if trained.run else named.with_name(f"{named.name}.unfinished")


def scores_of(scoring: Scoring, deliver: Deliver | None = None, *, every_score: bool = False) -> dict[str, Any] | None:
    """The scores with their protocol; None if it was asked to stop: what is done is kept until the same call goes on.

    deliver: takes the scores and the outputs on rank 0; what it raises loses no outputs. every_score: the scores of all
    pairs are kept for it, however many there are.
    """
    trained, part, group = scoring.trained, scoring.part, scoring.group
    config, vote = trained.config, Vote(group)
    with group.together():
        set_numerics(config.precision, group.place.local_world)
    log.info(f"{trained.checkpoint} ({trained.weights} weights) on {part.title}: {counted(len(part), 'sample')}")
    masks = None if scoring.masked is None else evaluation_masks(scoring.masked, config.model.size, part.ids)
    counts_only = not (every_score or keeps_pairs(part, config))
    key = partial(outputs_key, trained.network, config, part, masks, counts_only, *ready(trained))
    unfinished = Unfinished(scoring.kept_in, key, group, vote, config.checkpoint.every_minutes, to_the_end=True)
    try:
        collector: Collector[Outputs | Counted] = Counts(part, config) if counts_only else Pairs(part, config)
        outputs = outputs_for(collector, trained, group, masks, unfinished)
    except Stopped:
        _stopped(unfinished, vote, group)
        return None
    vote.drain()
    group.beat_without_limit("computing scores")
    summary = None
    if outputs is not None:
        summary = _summary(scoring, masks, outputs)
        if deliver is not None:
            deliver(summary, outputs)
        unfinished.discard()
    told: dict[str, Any] = group.broadcast(summary)  # the others leave when this is done, however long it takes
    return told


def _stopped(unfinished: Unfinished, vote: Vote, group: Group) -> None:
    name = max(group.all(stop_requested() or ""))
    vote.drain()
    then = "begins from the first image" if unfinished.refused else "goes on from here"
    log.info(f"stopped by {name}; the same command {then}")


def _summary(scoring: Scoring, masks: FixedMasks | None, outputs: Outputs | Counted) -> dict[str, Any]:
    trained = scoring.trained
    summary = evaluate(outputs, scoring.part, trained.config, resamples=trained.config.eval.bootstrap)
    summary["protocol"] |= {
        "weights": trained.weights, "checkpoint": trained.checkpoint, "checkpoint_sha256": trained.sha256,
        "step": trained.step, "epoch": trained.epoch, "masked": None if masks is None else masks.protocol,
    }  # fmt: skip
    summary["decided"] = _decided(scoring.decisions, outputs, scoring.part)
    return summary


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
