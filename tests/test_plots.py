"""The plots in the folder of a finished run: the same after an interruption, for names in any script, of no harm."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masksup.config.schema import Config
from masksup.exits import STOPPED
from masksup.output import plots
from masksup.output.plots import NAMED, ClassCurve, draw_curves, draw_precision_recall
from masksup.training.train import train

MakeConfig = Callable[..., Config]
PLOTS = ("curves.png", "precision_recall.png")
ROWS = [{"kind": "train", "epoch": k / 10, "loss": 1 / (k + 1)} for k in range(20)]
NAMES = ["日本語", "кошка", "قطة", "हिन्दी", "$x^2$", r"$\frac$", "_private", "a\nb", "name\ue000", "w" * 80, "plain"]


def coloured(path: Path) -> int:
    """The pixels that are neither white, black nor grey: those of curves."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.ptp(pixels, axis=2) > 40).sum())


def test_a_resumed_run_ends_with_the_plots_of_an_undisturbed_one(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(log__plots=True)
    assert train(config, tmp_path / "clean" / "run") == 0
    with monkeypatch.context() as patch:
        asked = iter([None, None, None, "SIGTERM"])
        patch.setattr("masksup.training.train.stop_requested", lambda: next(asked, "SIGTERM"))
        assert train(config, tmp_path / "run") == STOPPED
    assert not [name for name in PLOTS if (tmp_path / "run" / name).exists()]
    assert train(config, tmp_path / "run") == 0
    for name in PLOTS:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "clean" / "run" / name).read_bytes(), name
        assert coloured(tmp_path / "run" / name) > 500


def test_a_plot_that_fails_does_no_harm(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plots, "written_whole", full)
    assert train(tiny_config(log__plots=True, epochs=1), tmp_path) == 0
    assert (tmp_path / "result.json").is_file()
    said = capsys.readouterr().out
    assert [said.count(f"{name}: not drawn (OSError: [Errno 28] No space left on device)") for name in PLOTS] == [1, 1]


def test_names_are_drawn_as_they_are_in_any_script(tmp_path: Path) -> None:
    recall, precision = np.array([0.2, 1.0]), np.array([1.0, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of letters that its fonts lack
        pictures = {}
        for name in NAMES:
            draw_precision_recall(tmp_path / "pr.png", [ClassCurve(name, recall, precision, 75.0)], name)
            pictures[(tmp_path / "pr.png").read_bytes()] = name
    assert list(pictures.values()) == NAMES, "no two names look alike"


def test_a_class_with_one_positive_has_a_dot(tmp_path: Path) -> None:
    pictures = []
    for precision in (0.3, 0.7):
        curve = ClassCurve("dog", np.array([1.0]), np.array([precision]), 30.0)
        draw_precision_recall(tmp_path / "pr.png", [curve], "run")
        pictures.append((tmp_path / "pr.png").read_bytes())
    assert pictures[0] != pictures[1], "the point is seen"


def test_of_many_classes_the_first_have_names_and_all_have_curves(tmp_path: Path) -> None:
    curves = [ClassCurve(f"c{k}", np.array([0.1, 1.0]), np.array([1.0, k / 100]), 50.0) for k in range(100)]
    sizes = []
    for count in (NAMED, 100):
        draw_precision_recall(tmp_path / "pr.png", curves[:count], "run")
        picture = Image.open(tmp_path / "pr.png")
        sizes.append(picture.size)
    assert sizes[0] == sizes[1]
    assert np.asarray(picture.convert("L"))[:, : picture.width // 2].mean() < 250, "grey lines of the others"


def test_what_is_not_there_is_not_drawn(tmp_path: Path) -> None:
    assert not draw_curves(tmp_path / "c.png", [{"kind": "event", "step": 3}], "run")
    assert not draw_precision_recall(tmp_path / "p.png", [], "run")
    assert not list(tmp_path.iterdir())
    assert draw_curves(tmp_path / "c.png", ROWS, "run")
    loss_alone = Image.open(tmp_path / "c.png").width
    assert draw_curves(tmp_path / "c.png", [*ROWS, {"kind": "eval", "epoch": 1.0, "mAP": 50.0}], "run")
    assert Image.open(tmp_path / "c.png").width > 1.5 * loss_alone
