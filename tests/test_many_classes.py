"""Ten thousand classes in short: thousands of classes, every part of `tools/benchmark_size.py` and what people see."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from masksup.data.sampler import class_balance
from masksup.metrics.tables import MANY, SHOWN, tables, without_negatives
from masksup.training import score_log
from masksup.training.caution import cautions
from tools.benchmark_size import PARTS

CLASSES, IMAGES = 2_000, 5_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("many")


@pytest.mark.parametrize("part", PARTS, ids=lambda part: str(part.__name__))
def test_each_part_works(folder: Path, part: Callable[[Path, int, int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the tool: what is prepared is opened. Labels beyond memory and in pieces, as for millions."""
    monkeypatch.setattr("masksup.data.prepare.assemble._IN_MEMORY", 1 << 20)
    monkeypatch.setattr("masksup.data.sampler._AT_ONCE", 1 << 20)
    monkeypatch.setattr("tools.benchmark_size.SCORED", 300)
    part(folder, IMAGES, CLASSES)


def test_weights_in_pieces_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    labels_NC = (np.random.default_rng(0).random((503, 70)) < 0.02).astype(np.int8)
    whole = class_balance(labels_NC)
    monkeypatch.setattr("masksup.data.sampler._AT_ONCE", 70 * 100)
    assert class_balance(labels_NC) == pytest.approx(whole, rel=1e-12)


def summary(classes: int) -> dict[str, Any]:
    """Class k has AP k / classes, the last none; the later, the more positives."""
    names = [f"class {k}" for k in range(classes)]
    scores = dict.fromkeys(("CP", "CR", "CF1", "OP", "OR", "OF1", "mAP", "mAUROC"), 1.0)
    return {
        **scores, "top3": scores, "stratified": None, "protocol": {"threshold": 0.5},
        "AP": {name: 100 * (classes - k) / classes for k, name in enumerate(names[:-1])} | {names[-1]: None},
        "positives": {name: k for k, name in enumerate(names)},
    }  # fmt: skip


def printed(found: dict[str, Any]) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(tables(found)[-1])
    return capture.get()


def test_tables_show_the_first_and_the_worst_and_say_where_the_rest_is() -> None:
    text = printed(summary(CLASSES))
    shown = {int(word) for line in text.splitlines() for word in line.replace("│", " ").split("class")[1:] for word in
             word.split()[:1] if word.isdigit()}  # fmt: skip
    assert shown == {*range(SHOWN), *range(CLASSES - 1 - SHOWN, CLASSES - 1)}
    words = " ".join(text.split())
    assert f"the first {SHOWN} and the worst {SHOWN} of 2000 classes" in words.replace(",", "")
    assert "--json" in words
    assert printed(summary(MANY)).count("class ") >= MANY


def test_tensorboard_has_curves_of_the_most_frequent_classes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Record:
        rows: dict[str, dict[str, float]] = {}  # noqa: RUF012
        curves: list[str] = []  # noqa: RUF012

        def scalars(self, kind: str, _step: int, _epoch: float, values: dict[str, float]) -> None:
            self.rows[kind] = values

        def pr_curve(self, name: str, *_: object) -> None:
            self.curves.append(name)

        def beside(self, job: Callable[[], None]) -> None:
            job()

    found = summary(CLASSES)
    monkeypatch.setattr(score_log, "pr_curve", lambda *_: None)
    run = SimpleNamespace(
        progress=SimpleNamespace(step=1), record=Record(), config=SimpleNamespace(log=SimpleNamespace(pr_curves=True))
    )
    part = SimpleNamespace(labels_NC=None, index=SimpleNamespace(classes=tuple(found["AP"])))
    outputs = SimpleNamespace(probabilities_NC=None)
    score_log.record_scores(run, found, outputs, part, 1.0)  # type: ignore[arg-type]
    frequent = [f"class {k}" for k in range(CLASSES - score_log.CURVES_OF, CLASSES)]
    assert Record.curves == frequent[:-1], "the last has no AP"
    assert set(Record.rows["AP"]) == set(frequent[:-1])


def test_lines_name_the_first_of_many_classes() -> None:
    names = [f"class {k}" for k in range(CLASSES)]
    found = {"without_negatives": names, "protocol": {"class_without_negatives": "left out of mAP"}}
    index = SimpleNamespace(count=lambda _: np.zeros(CLASSES, np.int64), __len__=lambda: 9)
    config = SimpleNamespace(optim=SimpleNamespace(name="lbfgs"))
    run = SimpleNamespace(config=config, source=SimpleNamespace(train=index, classes=tuple(names)), plan=None)
    for line in (without_negatives(found), *cautions(run)):  # type: ignore[arg-type]
        assert line.endswith(f"class 18, class 19, ... and {CLASSES - 20:,} more")
