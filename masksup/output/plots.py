"""Plots of a run as PNG files, drawn by matplotlib: the curves of its training, and precision over recall."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from masksup.base.files import written_whole
from masksup.base.words import counted
from masksup.metrics.precision_recall import Floats
from masksup.output.lettering import fonts_for, shortened, written

NAMED = 20  # classes with a colour and a name; the others are grey
DPI = 130
_NAME = 150  # px: width of a name in the legend, at `_LETTERS` px
_LETTERS = 11
_GREY, _BLUE = "#a8aeb6", "#0068a8"


@dataclass(frozen=True)
class ClassCurve:
    """Precision over recall of one class, with its AP in percent."""

    name: str
    recall: Floats
    precision: Floats
    ap: float


def draw_curves(path: Path, rows: Sequence[dict[str, Any]], title: str) -> bool:
    """Draw loss and mAP over the epochs of the `rows` of a record; whether there was anything to draw."""
    shown = {"Training loss": _points(rows, "train", "loss"), "mAP, percent": _points(rows, "eval", "mAP")}
    shown = {label: points for label, points in shown.items() if points}
    if not shown:
        return False
    with _figure(path, title, 4.8 * len(shown), 3.6) as figure:
        for axes, (label, points) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items()):
            epochs, values = zip(*points)
            axes.plot(
                epochs, values, color=_BLUE, linewidth=1.4, marker="o" if len(points) <= 50 else None, markersize=3
            )
            _label(axes, "epoch", label)
            axes.set_xlim(left=0)
            if label.startswith("mAP"):
                best = max(points, key=lambda point: point[1])
                axes.plot(*best, marker="o", color="#c4401c", label=f"best: {best[1]:.2f} at epoch {best[0]:.3g}")
                axes.legend(loc="best", frameon=False)
    return True


def draw_precision_recall(path: Path, curves: Sequence[ClassCurve], title: str) -> bool:
    """Draw a line a class, the first `NAMED` of them with their names; whether there was anything to draw."""
    if not curves:
        return False
    with _figure(path, title, 7.4, 4.6) as figure:
        axes = figure.subplots()
        for curve in curves[NAMED:]:
            axes.plot(curve.recall, curve.precision, color=_GREY, linewidth=0.6)
        named = curves[:NAMED]
        axes.set_prop_cycle(color=[matplotlib.colormaps["tab20"](k) for k in range(NAMED)])
        lines = [_line(axes, curve) for curve in named]
        _label(axes, "recall", "precision")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        legend = axes.legend(
            lines, [str(number) for number in range(len(named))], loc="upper left", bbox_to_anchor=(1.0, 1.0),
            title=f"AP, {len(named)} of {counted(len(curves), 'class')}" if len(curves) > NAMED else "AP",
            frameon=False, alignment="left", fontsize=9, title_fontsize=9,
        )  # fmt: skip
        for text, curve in zip(legend.get_texts(), named):
            _write(text, f"{curve.ap:.1f}  {shortened(curve.name, _NAME, _LETTERS)}")
    return True


def _line(axes: Axes, curve: ClassCurve) -> Line2D:
    """A line, and of a class with a single positive, whose curve is one point, a dot."""
    marker = "o" if len(curve.recall) == 1 else None
    return axes.plot(curve.recall, curve.precision, linewidth=1.3, marker=marker, clip_on=marker is None)[0]


def _points(rows: Sequence[dict[str, Any]], kind: str, key: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[key]) for row in rows if row["kind"] == kind and row.get(key) is not None]


@contextmanager
def _figure(path: Path, title: str, width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` inches that is written to `path` at the end, whatever style the user has set."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells where it keeps a list of fonts
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        _write(figure.suptitle("title", fontsize=11), title)
        with written_whole(path, ".png") as partial:
            figure.savefig(partial, dpi=DPI, metadata={"Software": None})


def _label(axes: Axes, across: str, up: str) -> None:
    axes.set(xlabel=across, ylabel=up)
    axes.grid(color="#e6e9ed", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _write(text: Text, words: str) -> None:
    """Put words as they are, not as formulas, with the fonts of this machine for any script."""
    for file in fonts_for(words):
        font_manager.fontManager.addfont(file)
    names = [font_manager.get_font(file).family_name for file in fonts_for(words)]
    text.set(parse_math=False, text=written(words), fontfamily=["DejaVu Sans", *names])
