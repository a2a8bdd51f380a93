"""Early end of hopeless settings: asynchronous successive halving (arXiv 1810.05934) on the evaluation's mAP.

At each of the epochs of `halving.epochs` a run must be among the best `keep` of those of its sweep that came as far.
Nobody waits for anybody: a run is compared with those that are there, and again when more of them are.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from launch.ledger import Folder, read_json
from launch.sweeps.results import sweep_of
from launch.sweeps.settings import Halving
from masksup.base.files import write_atomically
from masksup.base.json_lines import read_lines

_EVERY_S = 15.0


def score_at(run: Path, epoch: float) -> float | None:
    """The first mAP (percent) that a run measured at or after an epoch; None if it has not come so far.

    Of a finished run that its own `stop.patience_epochs` ended before that epoch: the last, for it would be no better.
    """
    rows = [
        row for row in read_lines(run / "metrics.jsonl") if row.get("kind") == "eval" and row.get("mAP") is not None
    ]
    for row in rows:
        if row.get("epoch", -1) >= epoch - 1e-6:
            return float(row["mAP"])
    through = bool(rows) and bool(read_json(run / "result.json").get("stopped_early"))
    return float(rows[-1]["mAP"]) if through else None


def hopeless(run: Path, home: Path, rule: Halving) -> str | None:
    """Why a run is not worth going on with, or None."""
    others = [home / place for place in read_json(home / "launch" / "sweep.json").get("settings", {})]
    for epoch in sorted(rule.epochs, reverse=True):
        own = score_at(run, epoch)
        if own is None:
            continue
        scores = [score for score in (score_at(other, epoch) for other in others) if score is not None]
        return _verdict(own, scores, epoch, rule)
    return None


def _verdict(own: float, scores: Sequence[float], epoch: float, rule: Halving) -> str | None:
    better, allowed = sum(score > own for score in scores), math.ceil(rule.keep * len(scores))
    if len(scores) < rule.at_least or better < allowed:
        return None
    return f"stopped early: mAP {own:.2f} at epoch {epoch:g}, {better} of {len(scores)} are better; {allowed} may go on"


class EarlyStop:
    """Looks every now and then whether a run that trains has become hopeless."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._home, self._rule = folder, sweep_of(folder.run), None
        told = read_json(self._home / "launch" / "sweep.json").get("halving") if self._home is not None else None
        self._rule = Halving.model_validate(told) if told else None
        self._looked = time.monotonic()

    def due(self) -> bool:
        """Whether the ranks are to be asked to leave now; the reason is then in the run's launch folder."""
        if self._rule is None or self._home is None or time.monotonic() - self._looked < _EVERY_S:
            return False
        self._looked = time.monotonic()
        reason = hopeless(self._folder.run, self._home, self._rule)
        if reason is not None:
            write_atomically(self._folder.stopped_early, reason + "\n")
        return reason is not None
