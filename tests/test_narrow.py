"""Tables below 60 columns: no number, heading or row is folded or cut; what has no room is left out and named."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from launch.sweeps.results import ScoredSetting, as_text
from launch.watch.status import RunStatus
from launch.watch.table import show
from masksup.base.fitted import fitted
from masksup.calibration import show as calibration
from masksup.data.prepare import table as prepared
from masksup.data.shapes import prepare_shapes
from masksup.metrics.summary import THRESHOLD_SCORES, score
from masksup.metrics.tables import tables

WIDTHS = pytest.mark.parametrize("width", [40, 50, 59, 80])
STATUS = ("run", "job", "state", "ranks", "epoch", "mAP", "images/s", "left", "starts", "useful h", "lost h")
Print = Callable[[Console], None]


def printed(width: int, what: Print) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    what(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def left_out(text: str) -> list[str]:
    """The names of columns in the lines that tell of them."""
    flat = " ".join(line.strip() for line in text.splitlines())
    return [
        name
        for names in re.findall(r"left out, as the terminal is narrow: ([^;]+);", flat)
        for name in names.split(", ")
    ]


def words(lines: list[str]) -> set[str]:
    return {word for line in lines for word in re.split(r"[\s│┃]+", line)}


@WIDTHS
def test_a_table_keeps_whole_what_it_keeps(width: int) -> None:
    table = Table(title="A title of this table that is longer than some terminals are wide", title_justify="left")
    table.add_column("class", max_width=20, no_wrap=True)
    headings = ["threshold", "95 % interval", "precision", "recall"]
    for name in headings:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("a name far too long for it", "0.500", "0.123-0.456", "12.34", "56.78")
    text = printed(width, lambda console: console.print(fitted(table, width)))
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if "0.500" in line)
    kept = [name for name in headings if name not in left_out(text)]
    for name, cell in zip(headings, ("0.500", "0.123-0.456", "12.34", "56.78")):
        assert (cell in row) == (name in kept)
    assert all(any(name in line for line in lines) for name in kept)
    assert kept == headings[: len(kept)], "from the right"
    assert (width == 80) == (len(kept) == 4)
    assert "A title of this table that is" in text, "in the width of the terminal, not of what is left of the table"


@WIDTHS
def test_status(width: int, tmp_path: Path) -> None:
    facts: dict[str, Any] = {"ranks": 4, "epoch": 1.2, "score": 80.12, "images_per_second": 1234.0}
    table = [
        RunStatus(
            "optim.lr=0.001,model.head.name=csra/seed5", "104512_3", "waiting", note="AssocGrpCPUMinutesLimit", **facts
        ),
        RunStatus("b", "104513", "running", **facts),
    ]
    text = printed(width, lambda console: show(table, console, tmp_path))
    lines = text.splitlines()
    head, rows = lines[0].split(), lines[1:3]
    assert max(map(len, lines[:3])) <= width
    assert [name for name in STATUS if name not in left_out(text)] == re.findall("|".join(STATUS), lines[0])
    assert head[:3] == ["run", "job", "state"]
    assert [row.split()[:3] for row in rows] == [
        ["optim.l…ra/seed5", "104512_3", "waiting"], ["b", "104513", "running"]
    ]  # fmt: skip
    assert all("…" not in row[16:] for row in rows), "a cut number is another number"


@WIDTHS
def test_the_results_of_a_sweep(width: int, tmp_path: Path) -> None:
    names = [f"optim.lr=0.001,model.head.name=csra,augment.crop=random_{k}" for k in range(2)]
    found = [ScoredSetting(name, (), (80.12, 81.34), 0, None) for name in names]
    lines = as_text(tmp_path, found, width).splitlines()[:3]
    assert max(map(len, lines)) <= width
    assert [line.split()[1:] for line in lines] == [["mAP", "spread", "seeds"], *[["80.73", "0.86", "2"]] * 2]
    assert len({line.split()[0] for line in lines[1:]}) == 2
    assert all(name in as_text(tmp_path, found) for name in names), "a file has them in full"


@WIDTHS
def test_eval(width: int) -> None:
    rng = np.random.default_rng(0)
    names = [f"class {c}" for c in range(5)] + ["a name far too long for a terminal"]
    summary = score(rng.normal(size=(300, 6)), (rng.random((300, 6)) < 0.1).astype(np.int8), names)
    found = tables(summary, width)
    text = printed(width, lambda console: [console.print(fitted(table, width)) for table in found] and None)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    kept = [key for key in THRESHOLD_SCORES if key not in left_out(text)]
    assert len(kept) >= 3
    assert set(kept) <= words(lines)
    assert {f"{summary[key]:.2f}" for key in kept} <= words(lines)
    assert {f"{ap:.2f}" for ap in summary["AP"].values()} <= words(lines)


@WIDTHS
def test_no_class_is_left_out(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several stand side by side, whose letters may be two columns wide."""
    names = [f"日本語の車{number:02}" for number in range(40)]
    labels = np.eye(40, dtype=np.int8)
    found = tables(score(np.eye(40, dtype=np.float32), labels, names), width)
    text = printed(width, lambda console: console.print(fitted(found[-1], width)))
    assert set(names) <= words(text.splitlines())
    content = prepare_shapes(tmp_path, train=40, val=3, test=3, size=32, seed=3)[0]
    monkeypatch.setattr(prepared, "Console", lambda: Console(width=width))
    for group in (names, [f"c{number:03}" for number in range(40)]):  # shorter than their heading
        prepared.print_table([replace(content, classes=group, labels_NC=labels, warnings=[])])
        assert set(group) <= words(capsys.readouterr().out.splitlines())


@WIDTHS
def test_prepare(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = prepare_shapes(tmp_path, train=6, val=3, test=3, size=32, seed=3)
    monkeypatch.setattr(prepared, "Console", lambda: Console(width=width))
    prepared.print_table(contents)
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if not line.startswith("warning")]  # lines wrapped by the terminal
    assert max(map(len, lines)) <= width
    for heading in ("images", "samples", "boxes", "positives", "ignored", "unlabelled", "trainval", "test"):
        assert (heading in words(lines)) or heading in left_out(text)
    assert {"split", "images", "class", "checked_square", "striped_disc"} <= words(lines)


@WIDTHS
def test_calibrate(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = dict.fromkeys(("F1", "OF1", "OP", "OR"), 12.34) | {"labels": 1.5}
    rows = {rule: {"held_out": scores, "in_sample": scores} for rule in ("own", "shared")}
    found = calibration._rules({"aim": "f1", "folds": 5, "rule": "own", "rules": rows})
    text = printed(width, lambda console: console.print(fitted(found, width)))
    assert max(map(len, text.splitlines())) <= width
    assert "own (kept)" in text
    assert "12.34" in words(text.splitlines())
    assert "…" not in text
