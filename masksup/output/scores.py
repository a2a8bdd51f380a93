"""Scores for people: the tables that `masksup eval` prints and the files that it writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import refuse_unwritable_file, write_json, written_whole
from masksup.base.fitted import fitted
from masksup.base.log import console, log
from masksup.base.words import counted, listed
from masksup.data.split import Part
from masksup.evaluation.collect import Counted, Outputs
from masksup.metrics.tables import headline, tables, without_negatives
from masksup.output.voc_server import ServerFiles, server_files, usual_competition, write_server_files
from masksup.saved.open import Trained


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

    def checked(self, trained: Trained, part: Part) -> ServerFiles | None:
        """The files of the VOC server, if they are wanted. UserError where something that is wanted cannot be written,
        before anything is computed."""
        for option, file in (("--json", self.json_file), ("--predictions", self.predictions)):
            if file is not None:
                refuse_unwritable_file(option, file)
        if self.voc_server is None:
            return None
        return server_files(self.voc_server, part.index, self.competition or usual_competition(trained.config))


def write_scores(
    wanted: EvalFiles, files: ServerFiles | None, part: Part, summary: dict[str, Any], outputs: Outputs | Counted
) -> None:
    """Write what is wanted; `files`: as `wanted.checked` gave them."""
    if wanted.json_file is not None:
        write_json(wanted.json_file, summary)
        log.info(f"scores with their protocol: {wanted.json_file}")
    if isinstance(outputs, Counted):
        return
    if wanted.predictions is not None:
        write_predictions(wanted.predictions, outputs.logits_NC, part)
        log.info(f"scores of every sample: {wanted.predictions}")
    if files is not None:
        write_server_files(files, part.ids, part.index.classes, _confidence(outputs))
        log.info(
            f"for the VOC server: {files.folder / files.prefix}<class>.txt, {counted(len(part.index.classes), 'file')}"
        )


def write_predictions(file: Path, logits_NC: NDArray[np.float32], part: Part) -> None:
    """An .npz with ids N, classes C, logits float32 N x C and labels int8 N x C (1, 0, -1 ignored)."""
    ids = np.array(part.ids)
    with written_whole(file, ".npz") as partial:
        np.savez(partial, ids=ids, classes=np.array(part.index.classes), logits=logits_NC, labels=part.labels_NC)


def _confidence(outputs: Outputs) -> NDArray[np.float64]:
    """Probabilities; the server wants a number for each image, so what could not be read shows no class."""
    if outputs.broken_N.any():
        log.warning(f"{counted(int(outputs.broken_N.sum()), 'image')} could not be read: confidences of 0")
    return np.where(outputs.broken_N[:, None], 0.0, outputs.probabilities_NC)


def show_scores(summary: dict[str, Any], trained: Trained) -> None:
    """Print the tables, and what a reader has to know of them."""
    if summary["labelled_pairs"] == 0:
        log.info("nothing to score: no label of these samples is known")
    else:
        log.info(headline(summary))
        for table in tables(summary, console.width):
            console.print(fitted(table, console.width), soft_wrap=False)
    _remarks(summary, trained)


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
