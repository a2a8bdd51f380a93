"""The numbers of a run: `metrics.jsonl` and TensorBoard hold the same, and a resumed run continues both."""

import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from masksup.config import Config
from masksup.config_file import dump
from masksup.metrics.precision_recall import PrCurve
from masksup.runtime.run_folder import write_atomically


class Record:
    """Writes points at a step, in the run's own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "metrics.jsonl"

    def start(self, step: int) -> None:
        """Open the record to go on after `step`. Points behind it, of an attempt that was cut off, are taken back."""
        _truncate(self.path, step)
        self._file = self.path.open("a", encoding="utf-8")
        self.tensorboard = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)

    def scalars(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        """One row of `metrics.jsonl`, and one point a value on the curves `kind/name`."""
        row = {"kind": kind, "step": step, "epoch": round(epoch, 6), **values}
        self._file.write(json.dumps({k: _finite(v) for k, v in row.items()}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self.tensorboard.add_scalar(f"{kind}/{name}", value, step)

    def event(self, step: int, text: str) -> None:
        """A remark on the run's history: resumed, preempted, finished."""
        self._file.write(json.dumps({"kind": "event", "step": step, "text": text}) + "\n")
        self._file.flush()
        self.tensorboard.add_text("events", text, step)
        self.tensorboard.flush()

    def hyperparameters(self, config: Config) -> None:
        """Declare the settings for TensorBoard's HParams tab, once a run, in the run's own folder."""
        flat = {key: value for key, value in _flatten(dump(config)) if isinstance(value, bool | int | float | str)}
        # SummaryWriter.add_hparams would open a run of its own beside this one.
        writer: Any = self.tensorboard.file_writer
        for summary in cast(Any, hparams)(flat, {"eval/mAP": 0.0, "best/mAP": 0.0}):
            writer.add_summary(summary)

    def pr_curve(self, tag: str, step: int, curve: PrCurve, row: int) -> None:
        """The precision-recall curve of one class: `row` of `curve`."""
        self.tensorboard.add_pr_curve_raw(
            f"pr/{tag}", curve.true_positive[row], curve.false_positive[row], curve.true_negative[row],
            curve.false_negative[row], curve.precision[row], curve.recall[row], step,
            num_thresholds=curve.precision.shape[1],
        )  # fmt: skip

    def image(self, tag: str, step: int, picture: np.ndarray[Any, Any]) -> None:
        self.tensorboard.add_image(tag, picture, step, dataformats="HWC")

    def flush(self) -> None:
        self.tensorboard.flush()

    def close(self) -> None:
        self._file.close()
        self.tensorboard.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that a crash cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _truncate(path: Path, step: int) -> None:
    # Events tell the history of the attempts and stay; numbers after the step will be measured again.
    kept = [row for row in read_rows(path) if row["kind"] == "event" or row["step"] <= step]
    if path.exists():
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        rows += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return rows
