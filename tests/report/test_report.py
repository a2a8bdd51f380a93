"""The report: its numbers are those of the result, its markup is whole and harmless, two runs are compared fairly."""

import html
import json
import re
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve
from wrong_input import one_line

from masksup.base.random import draws
from masksup.cli import main
from masksup.commands.report import run_names
from masksup.config.schema import Config
from masksup.data.shapes import prepare_shapes
from masksup.data.write_index import write_index
from masksup.decisions.decisions import Decisions, Fitted, default_decisions, write_decisions
from masksup.evaluation.collect import Outputs
from masksup.metrics.precision_recall import pr_points
from masksup.report.charts import frame
from masksup.report.compare import difference
from masksup.report.cost import cost_of
from masksup.report.gather import gather, open_subject
from masksup.report.mistakes import confusions, matrix, worst_mistakes
from masksup.report.page import render
from masksup.saved.open import open_trained
from masksup.training.train import train

MakeConfig = Callable[..., Config]
NASTY = '<script>alert("x")</script>&'
VOID = {"meta", "img", "br", "input"}


@pytest.fixture(scope="session")
def nasty_data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data with markup for names of classes and samples."""
    folder = tmp_path_factory.mktemp("nasty")
    for content in prepare_shapes(tiny_data / "root", train=50, val=20, test=20, size=48, seed=3):
        classes = (NASTY, *content.classes[1:])
        ids = [f"<img src=x onerror=alert({n})>" for n in range(len(content.ids))]
        write_index(folder / content.split, replace(content, classes=classes, ids=ids))
    return folder


@pytest.fixture(scope="session")
def runs(nasty_data: Path, tmp_path_factory: pytest.TempPathFactory, tiny_config: MakeConfig) -> tuple[Path, Path]:
    """Two finished runs on the same data."""
    folder = tmp_path_factory.mktemp("report")
    parts = {key: str(nasty_data / split) for key, split in (("train", "train"), ("eval", "val"), ("test", "test"))}
    for name, head in (("one & <b>", "linear"), ("two", "csra")):
        config = tiny_config(data={**parts, "workers": 0}, model__head={"name": head}, eval={"masked": ["high"]})
        assert train(config, folder / name) == 0
    return folder / "one & <b>", folder / "two"


class Page(HTMLParser):
    """Tags in order, checked to close; attributes; the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_of_many_classes_the_first_and_the_worst_stand_on_the_page(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masksup.report.page.MANY", 1)
    monkeypatch.setattr("masksup.report.page.SHOWN", 1)
    monkeypatch.setattr("masksup.metrics.tables.SHOWN", 1)
    gathered = gather(open_subject(runs[1], "two", None))
    page = Page(render([gathered]))
    ap_of = gathered.summary["AP"]
    first, *others = ap_of
    worst = min((name for name in others if ap_of[name] is not None), key=lambda name: ap_of[name])
    values = [cell["data-value"] for cell in page.all("td") if "data-value" in cell]
    assert values == [str(ap_of[first]) if ap_of[first] is not None else "-", str(ap_of[worst])]
    assert f"These are the first 1 and the worst 1 of {len(ap_of)} classes" in page.text


def test_numbers_are_those_of_the_result_and_nothing_comes_from_elsewhere(runs: tuple[Path, Path]) -> None:
    assert main(["report", str(runs[0])]) == 0
    text = (runs[0] / "report.html").read_text()
    page = Page(text)
    scores = json.loads((runs[0] / "result.json").read_text())["best"]["test"]
    for key in ("mAP", "CF1", "OF1", "CP", "OR"):
        assert f"{scores[key]:.2f}" in page.text, key
    assert f"{scores['masked']['high']['mAP']:.2f}" in page.text
    for stratum in scores["stratified"]["size"]["strata"].values():
        assert stratum["mAP"] is None or f"{stratum['mAP']:.2f}" in page.text
    values = [cell["data-value"] for cell in page.all("td") if "data-value" in cell]
    assert values == ["-" if ap is None else str(ap) for ap in scores["AP"].values()]
    # Nothing is fetched, and the page forbids it too.
    assert "default-src 'none'" in str(page.all("meta"))
    addresses = [a[key] for _, a in page.tags for key in ("src", "href", "xlink:href", "action") if key in a]
    assert addresses
    assert all(str(address).startswith(("data:image/jpeg;base64,", "#")) for address in addresses), addresses
    assert not page.all("link")
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    # Names that hold markup are shown as they are.
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert NASTY in page.text
    assert runs[0].name in page.text
    assert html.escape("<img src=x onerror=alert(0)>", quote=True).split("(")[0] in text
    # What a reader of the screen needs.
    assert all(image.get("alt") for image in page.all("img"))
    assert all(picture.get("aria-label") for picture in page.all("svg"))
    assert all("scope" in heading for heading in page.all("th"))
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert all(str(link["href"])[1:] in targets for link in page.all("a"))


def test_facts_of_another_fit_are_not_shown(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """As a kill between the two files of `calibrate` leaves them."""
    run = tmp_path / "run"
    shutil.copytree(runs[0], run, symlinks=True)
    quick = ["--bootstrap", "20", "--folds", "2"]
    assert main(["calibrate", str(run), "--aim", "f1", *quick]) == 0
    earlier = (run / "calibration.json").read_bytes()
    assert main(["calibrate", str(run), "--aim", "recall=0.9", *quick]) == 0
    for own in (True, False):
        if not own:
            (run / "calibration.json").write_bytes(earlier)
        assert (gather(open_subject(run, "run", None)).calibration is not None) == own


def test_a_second_report_uses_the_kept_logits_and_says_the_same(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gather(open_subject(runs[1], "two", None))
    monkeypatch.setattr("masksup.report.gather.predict_alone", lambda *_: pytest.fail("computed again"))
    second = gather(open_subject(runs[1], "two", None))
    assert np.array_equal(first.outputs.logits_NC, second.outputs.logits_NC)
    scored = [a for a in first.summary["AP"].values() if a is not None]
    np.testing.assert_allclose(np.mean(scored), first.summary["mAP"])


def literal_difference(scores: list[Any], labels_NC: Any, image_N: Any, resamples: int) -> Any:
    """mAP of the second minus the first in percent, of each resample, by loops and scikit-learn."""
    images = np.unique(image_N)
    found = []
    for r in range(resamples):
        drawn = draws(0, r, "bootstrap").integers(0, len(images), len(images))
        weight_N = np.array([np.sum(images[drawn] == image) for image in image_N], float)
        means = []
        for scores_NC in scores:
            aps = []
            for c in range(labels_NC.shape[1]):
                kept = (labels_NC[:, c] >= 0) & (weight_N > 0)
                if (labels_NC[kept, c] == 1).any():
                    aps.append(
                        average_precision_score(labels_NC[kept, c], scores_NC[kept, c], sample_weight=weight_N[kept])
                    )
            means.append(np.mean(aps))
        found.append(100 * (means[1] - means[0]))
    return np.array(found)


@pytest.mark.slow  # short: tests/metrics does so for the numbers by themselves
def test_significance_equals_a_paired_bootstrap_written_out(runs: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = (gather(open_subject(path, path.name, None)) for path in runs)
    found = difference(one, two, resamples=60)
    scores = [run.outputs.logits_NC for run in (one, two)]
    image_N = np.asarray(one.part.index.sample_image_N)
    drawn_R = literal_difference(scores, one.labels_NC, image_N, 60)
    assert found.mean_ap == pytest.approx(two.summary["mAP"] - one.summary["mAP"])
    moved_R = drawn_R - drawn_R.mean() + found.mean_ap
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(moved_R, [2.5, 97.5])))
    turned = min((moved_R <= 0).sum(), (moved_R >= 0).sum())
    assert found.p == pytest.approx(min(1.0, 2 * (turned + 1) / 61))
    assert found.significant == (found.low > 0 or found.high < 0)
    same = difference(one, one, resamples=20)
    assert (same.mean_ap, same.low, same.high, same.p, same.significant) == (0, 0, 0, 1.0, False)
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "both.html")]) == 0
    page = Page((tmp_path / "both.html").read_text())
    shown = f"{difference(one, two).mean_ap:+.2f}".replace("-", "\N{MINUS SIGN}")
    assert f"two: {shown} points" in page.text


def test_what_grows_with_the_images_is_computed_once_a_run_not_once_a_class(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [gather(open_subject(path, path.name, None)) for path in runs]
    counts = {"sigmoid": 0, "decisions": 0}
    sigmoid, predicted = Outputs.probabilities_NC.fget, Decisions.predicted  # type: ignore[attr-defined]

    def count_sigmoid(outputs: Outputs) -> Any:
        counts["sigmoid"] += 1
        return sigmoid(outputs)

    def count_decisions(decisions: Decisions, probabilities: Any) -> Any:
        counts["decisions"] += probabilities.ndim == 2
        return predicted(decisions, probabilities)

    monkeypatch.setattr(Outputs, "probabilities_NC", property(count_sigmoid))
    monkeypatch.setattr(Decisions, "predicted", count_decisions)
    render(both)
    assert counts["decisions"] == 2
    assert 2 <= counts["sigmoid"] <= 8 < len(both[0].trained.classes)


def test_confusions_of_many_classes_hold_no_table_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    labels_NC = (rng.random((100, 3000)) < 0.001).astype(np.int8)
    tracemalloc.start()
    found = confusions(rng.random((100, 3000)) < 0.001, labels_NC, 15)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.most) == 15
    assert peak < 3000 * 3000, "less than a byte for each pair of classes"


def test_confusions_count_images_with_one_class_and_a_false_other() -> None:
    rng = np.random.default_rng(0)
    labels_NC = rng.integers(-1, 2, (60, 5)).astype(np.int8)
    present_NC = rng.random((60, 5)) < 0.4
    present_NC[:, 3] |= labels_NC[:, 1] == 1  # class 1 is taken for class 3 too
    images_SS, predicted_SS = matrix(present_NC, labels_NC, [*range(5)])
    for i in range(5):
        for j in range(5):
            there = [n for n in range(60) if labels_NC[n, i] == 1 and labels_NC[n, j] == 0]
            assert images_SS[i, j] == len(there)
            assert predicted_SS[i, j] == sum(present_NC[n, j] for n in there)
    found = confusions(present_NC, labels_NC, 25)
    beyond_SS = predicted_SS - images_SS * found.usual_C
    order = [divmod(int(place), 5) for place in np.argsort(-beyond_SS, axis=None, kind="stable")]
    assert [(i, j) for i, j, *_ in found.most] == [(i, j) for i, j in order if beyond_SS[i, j] > 0]
    for i, j, images, predicted in found.most:
        assert (images, predicted) == (images_SS[i, j], predicted_SS[i, j])
    assert found.most[0][:2] == (1, 3)
    assert confusions(present_NC, labels_NC, 3).most == found.most[:3]
    assert found.weight_C.tolist() == (predicted_SS.sum(0) + predicted_SS.sum(1)).tolist()
    assert confusions(labels_NC == 1, labels_NC, 5).most == []


def test_worst_mistakes_are_wrong_sorted_and_spread() -> None:
    rng = np.random.default_rng(1)
    p_NC, labels_NC = rng.random((50, 4)), rng.integers(-1, 2, (50, 4)).astype(np.int8)
    present_NC = p_NC >= 0.5
    false = worst_mistakes(p_NC, present_NC, labels_NC, "false", 6)
    assert all(labels_NC[m.row, m.class_] == 0 and p_NC[m.row, m.class_] >= 0.5 for m in false)
    assert [m.probability for m in false] == sorted((m.probability for m in false), reverse=True)
    assert false[0].probability == p_NC[(labels_NC == 0) & present_NC].max()
    missed = worst_mistakes(p_NC, present_NC, labels_NC, "missed", 6)
    assert missed[0].probability == p_NC[(labels_NC == 1) & ~present_NC].min()
    for mistakes in (false, missed):
        assert max(np.bincount([m.class_ for m in mistakes])) <= 2
    assert worst_mistakes(p_NC, labels_NC == 1, labels_NC, "false", 6) == []


def test_points_of_a_curve_are_those_of_scikit_learn_and_frames_hold_them() -> None:
    rng = np.random.default_rng(2)
    labels_N = rng.integers(-1, 2, 40).astype(np.int8)
    scores_N = np.round(rng.random(40), 1)  # with ties
    recall, precision = pr_points(scores_N, labels_N)
    kept = labels_N >= 0
    theirs = precision_recall_curve(labels_N[kept], scores_N[kept])
    pairs = {(round(r, 9), round(p, 9)) for p, r in zip(theirs[0], theirs[1])}
    assert {(round(r, 9), round(p, 9)) for r, p in zip(recall, precision)} <= pairs
    assert recall[-1] == 1
    long = pr_points(rng.random(2000), np.ones(2000, np.int8))
    assert len(long[0]) == 80
    for low, high in ((0.0, 0.0), (3.0, 3.1), (1e-5, 2e-3), (-4.0, 700.0)):
        box = frame([low, high], [low, high])
        assert box.y[0] <= low
        assert box.y[1] >= high
        assert 2 <= len(box.y_ticks) <= 8
        assert all(0 <= box.at(v, v)[0] <= box.width and 0 <= box.at(v, v)[1] <= box.height for v in (low, high))


@pytest.mark.parametrize("seed", range(4))
def test_the_point_of_the_decisions_lies_on_the_curve(seed: int) -> None:
    """Of many samples, few of which are positive, so that false ones lie between any two of them."""
    rng = np.random.default_rng(seed)
    scores_N, labels_N = np.round(rng.normal(size=5000), 2), rng.choice([-1, 0, 1], 5000, p=[0.1, 0.7, 0.2])
    for threshold in (-3.0, 0.105, 1.0, 2.5):
        said_N = (scores_N >= threshold) & (labels_N >= 0)
        hits = (said_N & (labels_N == 1)).sum()
        recall, precision = pr_points(scores_N, labels_N.astype(np.int8), int(said_N.sum()))
        at = (hits / (labels_N == 1).sum(), hits / said_N.sum())
        assert min(abs(recall - at[0]) + abs(precision - at[1])) < 1e-12
        assert (np.diff(recall) >= 0).all()


def test_dots_of_a_page_lie_on_their_curves(runs: tuple[Path, Path]) -> None:
    page = render([gather(open_subject(path, path.name, None)) for path in runs])
    dots = re.findall(r'd="M([^"]+)"/><circle class="dot" cx="([^"]+)" cy="([^"]+)" r="3.5"/>', page)
    assert len(dots) > 1
    for path, x, y in dots:
        assert (float(x), float(y)) in [tuple(map(float, point.split())) for point in path.split("L")]


def test_the_curve_of_a_class_with_one_positive_is_a_point_that_is_drawn(runs: tuple[Path, Path]) -> None:
    run = gather(open_subject(runs[0], "one", None))
    labels_NC = run.labels_NC.copy()
    labels_NC[labels_NC[:, 1] == 1, 1] = 0
    labels_NC[3, 1] = 1
    page = render([replace(run, labels_NC=labels_NC)])
    ((path, x, y),) = re.findall(r'd="M([^"]+)"/><circle class="single" cx="([^"]+)" cy="([^"]+)"', page)
    assert (float(x), float(y)) in [tuple(map(float, point.split())) for point in path.split("L")]


def test_lost_hours_are_those_of_all_starts_less_the_useful(tmp_path: Path) -> None:
    result = {"seconds": 3600.0, "ranks": 4, "images_per_second": 10.0, "device": "cuda", "attempts": 2}
    assert cost_of(tmp_path, result).lost is None
    (tmp_path / "launch").mkdir()
    rows = [
        {"number": 1, "began": 0.0, "gpus": 4}, {"number": 1, "ended": 1800.0, "outcome": "preempted"},
        {"number": 2, "began": 5000.0, "gpus": 4}, {"number": 2, "ended": 5000.0 + 3600},
    ]  # fmt: skip
    text = "\n".join(json.dumps(row) for row in rows) + '\n{"number": 3, "beg'
    (tmp_path / "launch" / "attempts.jsonl").write_text(text)
    cost = cost_of(tmp_path, result)
    assert (cost.useful, cost.allocated, cost.lost) == (4.0, 6.0, 2.0)


def test_names_tell_runs_apart() -> None:
    assert run_names([Path("a/x"), Path("a/y")]) == ["x", "y"]
    assert run_names([Path("a/x"), Path("b/x")]) == ["a/x", "b/x"]


def test_wrong_input_is_one_line(
    runs: tuple[Path, Path], tiny_data: Path, tiny_config: MakeConfig, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    one = str(runs[0])
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs[0], unfinished, symlinks=True)
    (unfinished / "result.json").unlink()
    assert train(tiny_config(epochs=1, eval={"size_shares": [0.1, 0.2], "bootstrap": 0}), tmp_path / "plain") == 0
    never = tiny_config(epochs=1, data={"train": str(tiny_data / "train"), "workers": 0})
    assert train(never, tmp_path / "never") == 0
    tested = tiny_config(epochs=1, data={**never.data.model_dump(), "test": str(tiny_data / "test")})
    assert train(tested, tmp_path / "tested") == 0
    assert train(tiny_config(epochs=1, eval={"ap_rule": "voc2012", "bootstrap": 0}), tmp_path / "ruled") == 0
    damaged = tmp_path / "damaged"
    shutil.copytree(runs[0], damaged, symlinks=True)
    trained = open_trained(damaged)
    fitted = Fitted(trained.checkpoint, trained.sha256, trained.step, trained.weights, "val", "", 20, "by hand")
    write_decisions(damaged, replace(default_decisions(trained.classes, 0.5), aim="f1", fitted=fitted))
    (damaged / "calibration.json").write_text("{")
    folder = tmp_path / "folder.html"
    folder.mkdir()
    plain = str(tmp_path / "plain")
    cases = [
        ([str(unfinished)], "found no result.json, so this run has no evaluation yet"),
        ([str(tmp_path / "never")], "names no data.eval or data.test"),
        ([plain, one], "has other classes than"),
        ([plain, str(tmp_path / "tested")], "was scored on shapes test"),
        ([plain, str(tmp_path / "ruled")], "was scored with eval.ap_rule voc2012, but plain with area"),
        ([plain, str(damaged)], "calibration.json: cannot be read"),
        ([one, plain], "has other classes than"),
        ([one, one], "found a run twice"),
        ([one, "--out", str(tmp_path / "a.pdf")], "ends in .html"),
        ([one, "--out", str(tmp_path / "no" / "a.html")], "cannot be written to"),
        ([one, "--out", str(folder)], "--out: found the folder"),
        ([one, "--data", str(tiny_data / "val")], "found other classes"),
        ([str(tmp_path)], "expected a run folder or a checkpoint"),
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("masksup.report.gather.predict_alone", lambda *_: pytest.fail("labelled, then refused"))
        for arguments, expected in cases:
            assert expected in one_line(["report", *arguments], capsys)
    assert list(tmp_path.glob("*.html")) == [folder]
    # The same classes, but other images or rules: with --data both are scored alike.
    both = [str(tmp_path / "never"), str(tmp_path / "plain")]
    out = str(tmp_path / "both.html")
    assert main(["report", *both, "--out", out, "--data", str(tiny_data / "test")]) == 0
    assert Path(out).is_file()
    assert main(["report", str(tmp_path / "plain"), str(runs[1]), "--out", out]) == 2
