"""The plots that a run leaves in its folder at its end. No run fails because of one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from masksup.base.log import log
from masksup.data.split import Part
from masksup.evaluation.collect import Counted, Outputs
from masksup.metrics.histogram import pr_points_of_counts
from masksup.metrics.precision_recall import pr_points
from masksup.runtime.metrics_rows import read_rows
from masksup.training.run import Run
from masksup.training.score_log import CURVES_OF

CURVES, PRECISION_RECALL = "curves.png", "precision_recall.png"


def plot_curves(run: Run) -> None:
    """On rank 0: draw loss and mAP over the epochs, of all starts of the run."""
    if not run.config.log.plots:
        return
    with _harmless(CURVES):
        from masksup.output.plots import draw_curves  # matplotlib takes a second to import

        run.record.flush()
        draw_curves(run.folder.path / CURVES, read_rows(run.record.path), run.folder.path.name)


def plot_precision_recall(run: Run, summary: dict[str, Any], outputs: Outputs | Counted, part: Part) -> None:
    """On rank 0: draw precision over recall of the classes of `part`, those with most positives first."""
    if not run.config.log.plots:
        return
    with _harmless(PRECISION_RECALL):
        from masksup.output.plots import ClassCurve, draw_precision_recall

        scored = [name for name, ap in summary["AP"].items() if ap is not None]
        curves = []
        for name in sorted(scored, key=lambda name: -summary["positives"][name])[:CURVES_OF]:
            c = part.index.classes.index(name)
            if isinstance(outputs, Counted):
                points = pr_points_of_counts(outputs.counts, c)
            else:
                labels_N = np.where(outputs.broken_N, np.int8(-1), part.labels_NC[:, c])
                points = pr_points(outputs.logits_NC[:, c], labels_N)
            curves.append(ClassCurve(name, *points, ap=summary["AP"][name]))
        title = f"{run.folder.path.name}: {part.title}, mAP {summary['mAP'] or 0:.2f}"
        draw_precision_recall(run.folder.path / PRECISION_RECALL, curves, title)


@contextmanager
def _harmless(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a full disk, a font that cannot be read, a matplotlib that does not fit
        log.warning(f"{name}: not drawn ({type(error).__name__}: {error}); nothing else of the run depends on it")
