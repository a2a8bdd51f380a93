"""A run that has ended, as its folder tells it."""

import os
from collections.abc import Iterable
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masksup.base.files import read_json
from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.report.charts import frame, training_curves
from masksup.runtime.checkpoint import list_checkpoints
from masksup.runtime.metrics_rows import read_rows
from masksup.runtime.run_folder import read_run_config
from masksup.saved.api import Model, load
from masksup.saved.open import WhichWeights
from masksup.saved.running import Device

if TYPE_CHECKING:
    import pandas


class Metrics(list[dict[str, Any]]):
    """The rows of `metrics.jsonl`: `kind` (train, eval, AP, event, ...), `step`, `epoch` and what was measured."""

    def of(self, kind: str) -> "Metrics":
        """The rows of one kind, such as `eval`."""
        return Metrics(row for row in self if row["kind"] == kind)

    def to_pandas(self) -> "pandas.DataFrame":
        """A row each, a column each name. UserError where pandas is not installed."""
        try:
            import pandas
        except ModuleNotFoundError:
            raise UserError(
                "to_pandas: pandas is not installed; pip install pandas, or take the rows as they are: dictionaries"
            ) from None
        return pandas.DataFrame(list(self))


class Svg(str):
    """A picture as SVG, which notebooks show."""

    def _repr_svg_(self) -> str:
        return str(self)


class FinishedRun(os.PathLike[str]):
    """What `masksup.train` gives. It stands for its folder wherever a path is taken: `masksup.load(run)`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """UserError where the run in `folder` has no result."""
        self.folder = Path(folder)
        self.result: dict[str, Any] = read_json(self.folder / "result.json", "the result of a training that has ended")

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        shown = (
            f"{name} {value:.2f}" for name in ("mAP", "CF1", "OF1") if (value := self.scores.get(name)) is not None
        )
        return f"<masksup run {self.folder}: {', '.join(shown) or 'not scored'}; {self.checkpoint.name}>"

    @property
    def scores(self) -> dict[str, Any]:
        """Those that stand for the run, in percent: `mAP`, `CF1`, `OF1`, `AP` of each class, `protocol`, ...

        Of the best weights, or the last ones where none were chosen; on `data.test`, else on `data.eval`. Empty for a
        run without either.
        """
        chosen = self.result.get("best") or self.result["last"]
        found: dict[str, Any] = chosen.get("test") or chosen.get("eval") or {}
        return found

    @cached_property
    def config(self) -> Config:
        """Its settings, with every default and every choice of `auto`: `run.config.optim.lr`."""
        return read_run_config(self.folder)

    @property
    def metrics(self) -> Metrics:
        """Every row of its record."""
        return Metrics(read_rows(self.folder / "metrics.jsonl"))

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint, or the newest where none was chosen."""
        best = self.folder / "checkpoints" / "best"
        there = list_checkpoints(self.folder / "checkpoints")
        return best.resolve() if best.exists() or not there else there[0]

    def model(self, weights: WhichWeights = "auto", device: Device | None = None, batch: int | None = None) -> Model:
        """Its model, with the thresholds of `masksup calibrate` where that was run. As `masksup.load`."""
        return load(self.folder, weights, device, batch)

    def curves(self) -> Svg:
        """Loss and mAP by epoch, side by side, where the run has them; the text of it is that of an SVG file."""
        found = {key: curve for key, curve in training_curves(self.metrics).items() if key in _TITLES}
        charts = [_chart(_TITLES[key], xs, ys, 480 * at) for at, (key, (xs, ys)) in enumerate(found.items())]
        size = f'width="{480 * len(charts)}" height="300"'
        style = 'font-family="sans-serif" font-size="12" fill="#555"'
        return Svg(f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(charts)}</svg>')


_TITLES = {"loss": "loss", "mAP": "mAP (%)"}


def _chart(title: str, xs: Iterable[float], ys: Iterable[float], left: int) -> str:
    xs, ys = list(xs), list(ys)
    box = frame(xs, ys)
    parts = [f'<text x="{box.left}" y="16" font-weight="bold">{escape(title)} by epoch</text>']
    for value, text in box.x_ticks:
        x, y = box.at(value, box.y[0])
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{text}</text>')
    for value, text in box.y_ticks:
        (x, y), (end, _) = box.at(box.x[0], value), box.at(box.x[1], value)
        parts.append(f'<text x="{x - 8}" y="{y + 4}" text-anchor="end">{text}</text>')
        parts.append(f'<path d="M{x} {y}H{end}" stroke="#ddd"/>')
    parts.append(f'<path d="{box.path(xs, ys)}" stroke="#2563a8" stroke-width="2" fill="none"/>')
    return f'<g transform="translate({left})">{"".join(parts)}</g>'
