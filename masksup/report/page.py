"""The parts of a report in the order of the page, as data for the template."""

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import jinja2
import numpy as np

from masksup import __version__
from masksup.base.words import MANY, SHOWN, counted, listed
from masksup.config.load import to_yaml
from masksup.explain.class_maps import map_kind
from masksup.metrics.precision_recall import decision_scores, pr_points
from masksup.metrics.reliability import calibration_scores
from masksup.metrics.stratified import LEVEL, STRATUM_SCORES
from masksup.metrics.summary import THRESHOLD_SCORES
from masksup.metrics.tables import first_and_worst
from masksup.report import charts
from masksup.report.compare import Difference, difference
from masksup.report.gather import Gathered
from masksup.report.mistakes import Mistake, confusions, matrix, worst_mistakes
from masksup.report.thumbnails import Sampler, as_data
from masksup.runtime.progress import duration

MAP_KINDS = {"activation": "class activation", "attention": "attention", "gradient": "gradient times features"}
CONFUSED, MATRIX, WORST = 15, 16, 12  # pairs listed, classes in the matrix, mistakes of each kind


def render(runs: Sequence[Gathered]) -> str:
    """The whole page, as text. All names are escaped by the template engine."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("masksup.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": _percent, "signed": _signed, "duration": duration, "counted": counted, "listed": listed
    }  # fmt: skip
    differences = [difference(runs[0], other) for other in runs[1:]]
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template("report.html").render(
        version=__version__, made=made, level=LEVEL, scores=THRESHOLD_SCORES, stratum_scores=STRATUM_SCORES,
        title=" and ".join(run.name for run in runs), runs=[_run(run) for run in runs],
        differences=[_difference(runs, d) for d in differences], classes=_classes(runs, differences),
        first=SHOWN, every=len(runs[0].trained.classes),
        curves=_curves(runs), precision_recall=_precision_recall(runs),
    )  # fmt: skip


def _run(run: Gathered) -> dict[str, Any]:
    """What stands on the page for each run by itself."""
    config = run.trained.config
    return {
        "name": run.name, "summary": run.summary, "protocol": run.summary["protocol"], "which": run.which,
        "others": _other_scores(run), "model": f"{config.model.backbone}, head {config.model.head.name}",
        "method": config.method.name, "data": run.part.title, "samples": len(run.part), "remarks": run.remarks,
        "strata": _strata(run.summary), "masked": _masked(run.summary), "calibration": _calibration(run),
        "confusions": _confusions(run), "mistakes": _mistakes(run), "cost": run.cost, "result": run.result,
        "yaml": to_yaml(config), "decisions": run.decisions, "checkpoint": run.trained.checkpoint,
        "decided": decision_scores(run.present_NC, run.labels_NC) if run.decisions.fitted else None,
        "map_kind": MAP_KINDS[map_kind(run.trained.network.head)],
        "trained_on": None if run.result is None else run.result["data"], "epoch": run.trained.epoch,
    }  # fmt: skip


def _other_scores(run: Gathered) -> list[tuple[str, dict[str, Any]]]:
    """(title, scores) of every evaluation of the result: best and last weights on the evaluation and test parts."""
    if run.result is None or run.which == "chosen":
        return [("chosen weights", run.summary)]
    rows = []
    for kind in ("best", "last"):
        for name in ("test", "eval"):
            scores = run.result.get(kind, {}).get(name)
            if scores is not None:
                rows.append((f"{name}, {kind} epoch ({run.result[kind]['epoch']:.3g})", scores))
    return rows


def _strata(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = summary["stratified"]
    if not found:
        return []
    rows = [("all", found["all"])]
    for division in ("size", "occlusion"):
        rows += list((found[division]["strata"] or {}).items())
    return rows


def _masked(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    rows = [("nothing", summary)]
    for level, scores in (summary.get("masked") or {}).items():
        least, most = scores["protocol"]["masked"]["hole_ratio"]
        rows.append((f"{100 * least:g}-{100 * most:g} % ({level})", scores))
    return rows if len(rows) > 1 else []


def _calibration(run: Gathered) -> dict[str, Any]:
    """Reliability on the images of this report, and what `masksup calibrate` found on those held out."""
    fitted = run.decisions.fitted
    before = calibration_scores(run.outputs.probabilities_NC, run.labels_NC)
    after = calibration_scores(run.probabilities_NC, run.labels_NC) if fitted else None
    same = fitted is not None and fitted.index == run.part.index.hash
    held_out = run.calibration["calibration"] if run.calibration else None
    if same and held_out is not None:  # these images were fitted to: their own diagram would flatter
        before, after = held_out["before"], held_out["after"]
    return {"before": before, "after": after, "same": same, "held_out": held_out, "fitted": fitted,
            "kind": run.decisions.calibration.kind, "aim": run.decisions.aim,
            "diagram": _reliability(before, after)}  # fmt: skip


def _reliability(before: dict[str, Any], after: dict[str, Any] | None) -> dict[str, Any]:
    box = charts.unit_frame(width=360, height=320)
    lines = []
    for scores in (before, after):
        if scores is None or scores["reliability"] is None:
            continue
        table = scores["reliability"]
        dots = [
            {"at": box.at(p, y), "r": round(2 + 1.2 * float(np.log10(n)), 1),
             "text": f"{counted(n, 'pair')}: {p:.1%} said, {y:.1%} there"}
            for n, p, y in zip(table["count"], table["probability"], table["present"])
            if n
        ]  # fmt: skip
        known = [(p, y) for n, p, y in zip(table["count"], table["probability"], table["present"]) if n]
        lines.append({"path": box.path([p for p, _ in known], [y for _, y in known]), "dots": dots})
    return {"frame": box, "lines": lines, "even": box.path((0, 1), (0, 1))}


def _confusions(run: Gathered) -> dict[str, Any]:
    found, names = confusions(run.present_NC, run.labels_NC, CONFUSED), run.trained.classes
    rows = [
        {"there": names[pair.i], "predicted": names[pair.j], "count": pair.predicted, "images": pair.images,
         "share": pair.predicted / pair.images, "usual": float(found.usual_C[pair.j])}
        for pair in found.most
    ]  # fmt: skip
    shown = sorted(np.argsort(-found.weight_C, kind="stable")[:MATRIX].tolist()) if found.weight_C.any() else []
    images_SS, predicted_SS = matrix(run.present_NC, run.labels_NC, shown)
    counts = [list(zip(*both)) for both in zip(predicted_SS.tolist(), images_SS.tolist())]
    cells = [
        [None if i == j or not n else k / n for j, (k, n) in enumerate(row)] for i, row in enumerate(counts)
    ]  # fmt: skip
    highest = max((cell for row in cells for cell in row if cell), default=0.0)
    return {"rows": rows, "names": [names[c] for c in shown], "matrix": cells, "highest": highest, "counts": counts,
            "all": len(shown) == len(names)}  # fmt: skip


def _mistakes(run: Gathered) -> dict[str, list[dict[str, Any]]]:
    sampler = Sampler(run)
    kinds: tuple[Literal["false", "missed"], ...] = ("false", "missed")
    worst = {
        kind: worst_mistakes(run.probabilities_NC, run.present_NC, run.labels_NC, kind, WORST) for kind in kinds
    }  # fmt: skip
    return {kind: [_mistake(run, sampler, mistake) for mistake in found] for kind, found in worst.items()}


def _mistake(run: Gathered, sampler: Sampler, mistake: Mistake) -> dict[str, Any]:
    names, row, c = run.trained.classes, mistake.row, mistake.class_
    sample = int(run.part.numbers(np.array([row]))[0])
    true = [name for name, label in zip(names, run.labels_NC[row]) if label == 1]
    predicted = [name for name, yes in zip(names, run.present_NC[row]) if yes]
    return {
        "id": run.part.index.id(sample), "class": names[c], "probability": mistake.probability,
        "threshold": run.decisions.thresholds[c], "true": true, "predicted": predicted,
        "photo": as_data(sampler.photo(row)), "map": as_data(sampler.mapped(row, c)),
    }  # fmt: skip


def _classes(runs: Sequence[Gathered], differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """A row a class: positives, and of each run AP and, at its threshold, precision and recall.

    Of very many classes those of the tables of `masksup eval`: the first and, of the first run, the worst.
    """
    names, rows = runs[0].trained.classes, []
    shown = names if len(names) <= MANY else first_and_worst(runs[0].summary["AP"])
    number = {name: c for c, name in enumerate(names)}
    for name in shown:
        c = number[name]
        labels_N = runs[0].labels_NC[:, c]
        cells = []
        for run in runs:
            there_N, said_N = run.labels_NC[:, c] == 1, run.present_NC[:, c] & (run.labels_NC[:, c] >= 0)
            hits, said, there = int((there_N & said_N).sum()), int(said_N.sum()), int(there_N.sum())
            cells.append({
                "AP": run.summary["AP"][name], "precision": 100 * hits / said if said else None,
                "recall": 100 * hits / there if there else None, "threshold": run.decisions.thresholds[c],
                "said": said, "origin": run.decisions.origins[c],
            })  # fmt: skip
        steps = [None if np.isnan(d.each_C[c]) else float(d.each_C[c]) for d in differences]
        rows.append({"name": name, "positives": runs[0].summary["positives"][name], "cells": cells, "steps": steps,
                     "ignored": int((labels_N < 0).sum()), "chart": _class_chart(runs, c)})  # fmt: skip
    return rows


def _class_chart(runs: Sequence[Gathered], c: int) -> dict[str, Any] | None:
    box = charts.unit_frame(width=150, height=110, left=8, bottom=8, top=6, right=6)
    lines = []
    for run in runs:
        labels_N = run.labels_NC[:, c]
        there_N, said_N = labels_N == 1, run.present_NC[:, c] & (labels_N >= 0)
        hits, said, there = int((there_N & said_N).sum()), int(said_N.sum()), int(there_N.sum())
        if not there:
            return None
        # By logits, as the decisions are: probabilities near 1 are ties that a threshold of logits cuts.
        recall, precision = pr_points(run.outputs.logits_NC[:, c], labels_N, said)
        lines.append({
            "path": box.path(recall, precision), "dot": box.at(hits / there, hits / said) if said else None,
            "single": box.at(1.0, precision[recall.argmax()]) if there == 1 else None,
        })  # fmt: skip
    return {"frame": box, "lines": lines}


def _precision_recall(runs: Sequence[Gathered]) -> dict[str, Any]:
    """All pairs of image and class together."""
    box = charts.unit_frame()
    lines = []
    for run in runs:
        scores, labels = run.outputs.probabilities_NC.reshape(-1), run.labels_NC.reshape(-1)
        recall, precision = pr_points(scores, labels)
        lines.append({"name": run.name, "path": box.path(recall, precision)})
    return {"frame": box, "lines": lines}


def _curves(runs: Sequence[Gathered]) -> list[dict[str, Any]]:
    """Charts of what was recorded while training, all runs in one."""
    titles = {"loss": "Training loss", "mAP": "mAP on the evaluation part, percent", "learning_rate": "Learning rate",
              "images_per_second": "Images a second"}  # fmt: skip
    found = [charts.training_curves(run.rows) for run in runs]
    shown = []
    for key, title in titles.items():
        drawn = [(number, curves[key]) for number, curves in enumerate(found) if key in curves]
        if not drawn:
            continue
        xs = [x for _, (of_x, _) in drawn for x in of_x]
        ys = [y for _, (_, of_y) in drawn for y in of_y]
        box = charts.frame([0.0, *xs], ys, from_zero=key != "mAP")
        lines = [{"number": n, "path": box.path(*curve), "last": curve[1][-1]} for n, curve in drawn]
        shown.append({"title": title, "frame": box, "lines": lines, "unit": key})
    return shown


def _difference(runs: Sequence[Gathered], found: Difference) -> dict[str, Any]:
    names = runs[0].trained.classes
    known = [(float(step), name) for step, name in zip(found.each_C, names) if not np.isnan(step)]
    ordered = sorted(known, key=lambda pair: (-pair[0], pair[1]))
    better, worse = sum(step > 0 for step, _ in known), sum(step < 0 for step, _ in known)
    return {**{k: v for k, v in asdict(found).items() if k != "each_C"}, "significant": found.significant,
            "gains": [p for p in ordered if p[0] > 0][:8], "losses": [p for p in ordered[::-1] if p[0] < 0][:8],
            "better": better, "worse": worse, "most": max((abs(s) for s, _ in known), default=1.0) or 1.0}  # fmt: skip


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
