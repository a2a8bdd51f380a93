"""Strata against boxes looked at one by one and against the drawn shapes; their scores against the definition."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import average_precision_score

from masksup.data.index import CROWD, DIFFICULT, OCCLUDED, TRUNCATED, open_index
from masksup.data.prepare.coco import prepare_coco
from masksup.data.prepare.csv import prepare_csv
from masksup.data.shapes import prepare_shapes
from masksup.data.shapes_picture import draw_image
from masksup.data.split import Part, whole
from masksup.data.write_index import write_index
from masksup.evaluation.collect import Outputs
from masksup.evaluation.scores import evaluate
from masksup.metrics.average_precision import average_precision, mean_average_precision
from masksup.metrics.bootstrap import ScoredPairs
from masksup.metrics.strata import MIXED, WITHOUT_BOXES, divisions
from masksup.metrics.stratified import stratified_scores
from masksup.metrics.tables import headline, tables

SHARES = (1 / 300, 0.03)


@pytest.fixture(scope="module")
def coco_val(shared_data, tmp_path_factory):
    content = next(c for c in prepare_coco(shared_data / "coco_small") if c.split == "val")
    return write_index(tmp_path_factory.mktemp("coco") / "val", content)


def stratum(division, sample, c):
    number = int(division.stratum_NC[sample, c])
    return division.names[number] if number >= 0 else {MIXED: "mixed", WITHOUT_BOXES: "without"}[number]


def looked_at(index, sample, c, kind_of):
    """The stratum of a pair from its boxes, one by one."""
    _, class_K, share_K, flags_K = index.boxes(sample)
    kinds = {
        kind_of(share, flags) for k, share, flags in zip(class_K, share_K, flags_K)
        if k == c and not flags & DIFFICULT and not flags & CROWD
    }  # fmt: skip
    return "without" if not kinds else kinds.pop() if len(kinds) == 1 else "mixed"


def size_of(shares):
    return lambda share, _: "small" if share < shares[0] else "medium" if share < shares[1] else "large"


def hidden(_, flags):
    return "occluded" if flags & (OCCLUDED | TRUNCATED) else "not occluded"


@pytest.mark.shared
def test_sizes_of_real_photographs(coco_val):
    size, why = (divisions(coco_val, np.arange(64), SHARES)[key] for key in ("size", "occlusion"))
    assert why == "the index marks no object as occluded or truncated"
    counts = dict.fromkeys(("small", "medium", "large", "mixed"), 0)
    for sample, c in np.argwhere(coco_val.labels_NC == 1):
        found = stratum(size, sample, c)
        assert found == looked_at(coco_val, sample, c, size_of(SHARES))
        counts[found] += 1
    assert sum(counts.values()) == 181
    assert min(counts.values()) > 10, counts


def test_occlusion_of_drawn_shapes_is_what_was_drawn(tmp_path):
    size, seed, shares = 96, 4, (0.06, 0.15)
    contents = prepare_shapes(tmp_path / "root", train=60, val=1, test=1, size=size, seed=seed)
    index = write_index(tmp_path / "train", next(c for c in contents if c.split == "train"))
    found = divisions(index, np.arange(60), shares)
    seen = set()
    for sample in range(60):
        shapes = [shape for shape in draw_image(size, seed, sample)[1] if not shape.difficult()]
        for name in {shape.name for shape in shapes}:
            c = index.classes.index(name)
            own = [shape for shape in shapes if shape.name == name]
            hidden_ones = {shape.occluded() or shape.truncated() for shape in own}
            expected = "mixed" if len(hidden_ones) == 2 else "occluded" if hidden_ones.pop() else "not occluded"
            assert stratum(found["occlusion"], sample, c) == expected
            assert stratum(found["size"], sample, c) == looked_at(index, sample, c, size_of(shares))
            seen |= {expected, stratum(found["size"], sample, c)}
    assert seen == {"small", "medium", "large", "occluded", "not occluded", "mixed"}


def test_difficult_and_crowd_boxes_do_not_count_and_thresholds_belong_to_the_larger(tiny_data):
    index = open_index(tiny_data / "val")
    boxes = [  # sample, class, share, flags
        (0, 0, 0.1, 0), (0, 0, 0.5, DIFFICULT), (0, 0, 0.5, CROWD), (0, 1, 0.3, 0), (0, 2, 0.5, DIFFICULT),
        (1, 0, 0.6, TRUNCATED), (1, 0, 0.7, OCCLUDED), (1, 1, 0.6, OCCLUDED), (1, 1, 0.1, 0), (1, 2, 0.2999, 0),
    ]  # fmt: skip
    start = np.searchsorted([sample for sample, *_ in boxes], np.arange(len(index) + 1))
    made = replace(
        index, box_start_N1=start, boxes_M4=np.zeros((10, 4), np.float32),
        box_class_M=np.array([c for _, c, _, _ in boxes], np.int16),
        box_share_M=np.array([share for *_, share, _ in boxes], np.float32),
        box_flags_M=np.array([flags for *_, flags in boxes], np.uint8),
    )  # fmt: skip
    for rows in (np.arange(len(index)), np.array([1, 0])):  # a part may hold some samples, in another order
        found = divisions(made, rows, (0.25, 0.3))
        at = {int(sample): row for row, sample in enumerate(rows)}
        sizes = {(s, c): stratum(found["size"], at[s], c) for s in (0, 1) for c in (0, 1, 2)}
        assert sizes == {
            (0, 0): "small", (0, 1): "large", (0, 2): "without", (1, 0): "large", (1, 1): "mixed", (1, 2): "medium",
        }  # fmt: skip
        occlusion = [stratum(found["occlusion"], at[1], c) for c in (0, 1, 2)]
        assert occlusion == ["occluded", "mixed", "not occluded"]


def predictions(index, seed=0, spread=1.0):
    """Logits that know something of the labels, as a model's outputs."""
    labels = np.asarray(index.labels_NC)
    logits = spread * np.random.default_rng(seed).normal(size=labels.shape) + 3 * (labels == 1) - 1.5
    return Outputs(logits.astype(np.float32), np.zeros(len(labels), bool))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    contents = prepare_shapes(folder / "root", train=150, val=1, test=1, size=48, seed=2)
    return write_index(folder / "train", next(c for c in contents if c.split == "train"))


def make(tiny_config, **overrides):
    return tiny_config(eval__size_shares=[0.06, 0.15], **overrides)


def test_scores_of_a_stratum_follow_the_definition(shapes, tiny_config):
    outputs, config = predictions(shapes), make(tiny_config, eval__threshold=0.4)
    summary = evaluate(outputs, whole(shapes), config)
    labels, scores = np.asarray(shapes.labels_NC), outputs.probabilities_NC
    assert (labels == -1).any(), "ignored pairs take part in the test"
    found = divisions(shapes, np.arange(len(shapes)), config.eval.size_shares)
    for key in ("size", "occlusion"):
        group, positives = summary["stratified"][key], 0
        for number, name in enumerate(found[key].names):
            row, own = group["strata"][name], (labels == 1) & (found[key].stratum_NC == number)
            aps, hits = {}, []
            for c, class_name in enumerate(shapes.classes):
                kept = own[:, c] | (labels[:, c] == 0)
                aps[class_name] = None
                if own[:, c].any():
                    aps[class_name] = 100 * average_precision_score(own[kept, c], scores[kept, c])
                    hits.append([bool(scores[n, c] >= 0.4) for n in range(len(labels)) if own[n, c]])
            assert row["AP"] == pytest.approx(aps)
            assert row["mAP"] == pytest.approx(np.mean([ap for ap in aps.values() if ap is not None]))
            assert row["OR"] == pytest.approx(100 * np.mean(np.concatenate(hits)))
            assert row["CR"] == pytest.approx(100 * np.mean([np.mean(one) for one in hits]))
            assert (row["positives"], row["scored_classes"]) == (sum(map(len, hits)), len(hits))
            assert row["mAP_interval"] is row["OR_interval"] is None
            positives += row["positives"]
        assert positives + group["mixed"] + group["without_boxes"] == (labels == 1).sum()
    everything = summary["stratified"]["all"]
    for key in ("mAP", "OR", "CR"):
        assert everything[key] == pytest.approx(summary[key])
    assert everything["AP"] == pytest.approx(summary["AP"])
    assert summary["protocol"]["intervals"] is summary["mAP_interval"] is None
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_intervals_hold_the_score_narrow_with_the_images_and_repeat(shapes, tiny_config):
    config, outputs = make(tiny_config), predictions(shapes, spread=2.0)
    few, whole_part = Part(shapes, np.arange(40)), whole(shapes)
    summary = evaluate(outputs, whole_part, config, resamples=400)
    assert summary == evaluate(outputs, whole_part, config, resamples=400)
    assert summary["protocol"]["intervals"]["resamples"] == 400
    rows = [summary["stratified"]["all"], *summary["stratified"]["occlusion"]["strata"].values()]
    for row in rows:
        for key in ("mAP", "OR", "CR"):
            low, high = row[f"{key}_interval"]
            assert 0 <= low < row[key] < high <= 100
    assert summary["mAP_interval"] == rows[0]["mAP_interval"]
    less = evaluate(Outputs(outputs.logits_NC[:40], outputs.broken_N[:40]), few, config, resamples=400)
    width = [high - low for low, high in (less["mAP_interval"], summary["mAP_interval"])]
    assert width[0] > 1.3 * width[1]


def pairs_of(logits, labels):
    return ScoredPairs.of(logits, labels, "area", 0.5)


def test_too_few_images_have_no_interval():
    labels = np.zeros((60, 2), np.int8)
    labels[:9, 0] = labels[40:, 1] = 1
    scores = np.random.default_rng(0).random((60, 2))
    for images, enough in ((np.arange(60), True), (np.arange(60) // 30, False)):
        row = stratified_scores(pairs_of(scores, labels), ["a", "b"], {}, images, resamples=50)["all"]
        assert (row["mAP_interval"] is not None) == enough
    alone = pairs_of(scores[:, :1], labels[:, :1])
    alone = stratified_scores(alone, ["a"], {}, np.arange(60), resamples=50)["all"]
    assert (alone["positives"], alone["mAP_interval"], alone["OR_interval"]) == (9, None, None)


def test_a_recall_of_nothing_or_all_has_no_interval():
    labels = (np.random.default_rng(0).random((50, 1)) < 0.5).astype(np.int8)
    for scores, recall in ((-np.ones((50, 1)), 0), (np.ones((50, 1)), 100)):
        row = stratified_scores(pairs_of(scores, labels), ["a"], {}, np.arange(50), resamples=50)["all"]
        assert (row["OR"], row["OR_interval"], row["CR_interval"]) == (recall, None, None)
        assert row["mAP_interval"] is not None


@pytest.mark.slow
def test_intervals_cover_the_mean_score_of_sets_of_images():
    """Plain percentiles hold it half of the time here, as copies of positives rank side by side."""
    rng, classes, images = np.random.default_rng(1), 100, 300

    def score(resamples):
        labels = (rng.random((images, classes)) < 0.03).astype(np.int8)
        logits = rng.normal(size=labels.shape) + 0.5 * rng.normal(size=(images, 1)) + 1.5 * labels
        names = [str(c) for c in range(classes)]
        return stratified_scores(pairs_of(logits, labels), names, {}, np.arange(images), resamples=resamples)["all"]

    expected = np.mean([score(0)["mAP"] for _ in range(100)])
    ends = np.array([score(100)["mAP_interval"] for _ in range(60)])
    covered = np.mean((ends[:, 0] <= expected) & (expected <= ends[:, 1]))
    assert covered >= 0.85, covered


def test_unreadable_images_are_left_out(shapes, tiny_config):
    outputs, kept = predictions(shapes), np.arange(len(shapes)) % 3 > 0
    config = make(tiny_config)
    broken = evaluate(Outputs(outputs.logits_NC, ~kept), whole(shapes), config, resamples=20)
    without = evaluate(
        Outputs(outputs.logits_NC[kept], np.zeros(kept.sum(), bool)), Part(shapes, np.flatnonzero(kept)), config,
        resamples=20,
    )  # fmt: skip
    assert broken["stratified"] == without["stratified"]
    assert broken["mAP_interval"] == without["mAP_interval"]


def test_strata_follow_the_clean_rules_whatever_code_the_other_scores_repeat(shapes, tiny_config):
    clean = evaluate(predictions(shapes), whole(shapes), make(tiny_config), resamples=20)
    repeated = evaluate(predictions(shapes), whole(shapes), make(tiny_config, eval__compat="csra"), resamples=20)
    assert repeated["stratified"] == clean["stratified"]
    assert repeated["stratified"] is not None
    assert (clean["mAP_interval"] is None, repeated["mAP_interval"]) == (False, None)


def test_what_is_missing_is_none_and_says_why(shapes, tiny_config, tmp_path):
    index = shapes
    unknown = replace(index, labels_NC=np.full_like(index.labels_NC, -1))
    summary = evaluate(predictions(unknown), whole(unknown), make(tiny_config), resamples=20)
    assert summary["stratified_why"] == "no sample has a label that is present"
    assert (summary["labelled_pairs"], summary["mAP"], summary["mAP_interval"]) == (0, None, None)
    lines = [f"{index.path(n)},{'x' if n % 2 else ''}" for n in range(30)]
    (tmp_path / "val.csv").write_text("\n".join(["image,labels", *(line.rsplit("/", 1)[1] for line in lines)]))
    table = write_index(tmp_path / "val", prepare_csv(index.path(0).parent, csv=[str(tmp_path / "val.csv")])[0])
    summary = evaluate(predictions(table, spread=3.0), whole(table), make(tiny_config), resamples=20)
    assert (summary["stratified"], summary["stratified_why"]) == (None, "the index holds no boxes")
    assert summary["mAP_interval"] is not None
    assert "95 % interval" in headline(summary)
    assert len(tables(summary)) == 2


@pytest.mark.shared
def test_the_table_of_real_photographs(coco_val, tiny_config):
    summary = evaluate(predictions(coco_val), whole(coco_val), tiny_config(), resamples=50)
    assert summary["stratified"]["occlusion"]["strata"] is None
    assert "marks no object" in summary["stratified"]["occlusion"]["why"]
    out = io.StringIO()
    console = Console(file=out, width=100)
    for table in tables(summary, 100):
        console.print(table)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    rows = {cells[1].strip(): cells for line in lines if len(cells := line.split("│")) == 8}
    strata = summary["stratified"]["size"]["strata"]
    for name in ("small", "medium", "large"):
        row, (low, high) = strata[name], strata[name]["mAP_interval"]
        assert rows[name][2].split() == [f"{row['mAP']:.2f}", f"{low:.1f}-{high:.1f}"]
        assert rows[name][5].strip() == str(row["positives"])
    assert f"{summary['stratified']['size']['mixed']} are of several sizes" in out.getvalue()
    labels = np.asarray(coco_val.labels_NC)
    assert sum(row["positives"] for row in strata.values()) + summary["stratified"]["size"]["mixed"] == 181
    expected = mean_average_precision(average_precision(predictions(coco_val).logits_NC, labels))
    assert summary["stratified"]["all"]["mAP"] == pytest.approx(100 * expected)
