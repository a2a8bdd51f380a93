"""What is recorded and shown of the scores of a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from masksup.base.words import MANY
from masksup.data.decode import decode_bytes
from masksup.data.split import Part
from masksup.evaluation.collect import Counted, Outputs
from masksup.metrics.histogram import pr_curve_of_counts
from masksup.metrics.precision_recall import pr_curve
from masksup.metrics.stratified import STRATUM_SCORES
from masksup.metrics.summary import THRESHOLD_SCORES
from masksup.output.pictures import contact_sheet, draw_prediction
from masksup.runtime.metrics_log import Record
from masksup.training.run import Run

CURVES_OF = 100  # classes, of those beyond MANY
CURVES = ("mAP", "mAUROC", *THRESHOLD_SCORES)


def record_scores(run: Run, summary: dict[str, Any], outputs: Outputs | Counted, part: Part, epoch: float) -> None:
    step, record = run.progress.step, run.record
    record.scalars("eval", step, epoch, known(summary, CURVES))
    for division in ("size", "occlusion") if summary["stratified"] else ():
        for name, row in (summary["stratified"][division]["strata"] or {}).items():
            record.scalars(f"only_{name.replace(' ', '_')}", step, epoch, known(row, STRATUM_SCORES))
    drawn = _drawn(summary)
    shown = {name: ap for name, ap in summary["AP"].items() if ap is not None and name in drawn}
    record.scalars("AP", step, epoch, shown)
    if run.config.log.pr_curves:
        record.beside(lambda: _curves(record, step, outputs, part, shown))


def _curves(record: Record, step: int, outputs: Outputs | Counted, part: Part, shown: dict[str, float]) -> None:
    """Precision-recall curves of the classes in `shown`."""
    if isinstance(outputs, Counted):
        curves = pr_curve_of_counts(outputs.counts)
    else:
        curves = pr_curve(outputs.probabilities_NC, part.labels_NC)
    for number, name in enumerate(part.index.classes):
        if name in shown:
            record.pr_curve(name, step, curves, number)


def _drawn(summary: dict[str, Any]) -> set[str]:
    """The classes with curves of their own: all, or of very many those with most positives, at any time the same."""
    names = list(summary["AP"])
    if len(names) <= MANY:
        return set(names)
    return set(sorted(names, key=lambda name: -summary["positives"][name])[:CURVES_OF])


def known(scores: dict[str, Any], keys: Sequence[str]) -> dict[str, float]:
    return {key: scores[key] for key in keys if scores[key] is not None}


def contact_sheet_of(run: Run, outputs: Outputs, part: Part, threshold: float) -> NDArray[np.uint8]:
    index, pictures = part.index, []
    for row in range(min(run.config.log.images, len(outputs.broken_N))):
        if outputs.broken_N[row]:
            continue
        sample = int(part.numbers(np.array([row]))[0])
        pixels: Tensor = decode_bytes(
            index.read(sample),
            index.where(sample),
            exif=index.exif,
            max_pixels=run.config.data.max_pixels,
            pixel_range=index.pixel_range,
            whole=True,  # or it were among the broken ones
        )
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        scores, truth = outputs.probabilities_NC[row].tolist(), index.labels_NC[sample].tolist()
        present = [score >= threshold for score in scores]
        pictures.append(draw_prediction(image, index.classes, scores, present, truth, threshold=threshold))
    return np.asarray(contact_sheet(pictures, 4))
