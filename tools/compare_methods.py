"""Methods side by side at equal epochs or equal time: clean, masked and stratified scores, mean and spread of seeds.

    python -m tools.compare_methods BASE --equal epochs|time --out DIR [--only csra masksup] [key=value ...]

BASE is a configuration whose `data.test` is scored with the last weights. `--equal time` first times a training step
of every contender, one by one in turn, and gives each as many epochs, to a quarter of one, as cost what BASE's
`epochs` cost `linear`. Every run is a folder DIR/CONTENDER-EPOCHS/seed-N: the same command goes on where it stopped,
and the two kinds of comparison share runs. DIR/equal_epochs.json and DIR/equal_time.json keep all scores.
The spread is the sample standard deviation over the seeds.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from masksup.base.files import write_json
from masksup.base.log import console
from masksup.config.load import load_config
from masksup.config.schema import Config
from masksup.data.masks import FixedMasks, evaluation_blocks, evaluation_masks
from masksup.data.split import Part, open_source
from masksup.engine.precision import set_numerics
from masksup.errors import UserError
from masksup.evaluation.scores import evaluate
from masksup.saved.open import open_trained
from masksup.saved.outputs import predict_alone
from masksup.training.train import train
from tools.step_time import interleaved_seconds, new_step, ratios

_CSRA = ["model.head.name=csra", "model.head.heads=1", "model.head.lam=0.1"]
CONTENDERS = {
    "linear": [],
    "csra": _CSRA,
    # The control: what masks do as mere augmentation, without two views and without their consistency.
    "csra, half masked": [*_CSRA, "method.name=masksup", "method.views=mixed"],
    "csra + masksup": [*_CSRA, "method.name=masksup"],
    "mcar, 2 regions": ["method.name=mcar", "method.top=2"],
    "oass": ["model.head.name=csi", "method.name=oass"],
}
VIEWS = ("clean", "low", "high", "blocks")
LEARNT = 5  # positives in data.train that a class of the narrower set has at least


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, score everything, print a table. Exit status 2 for a mistake in the input."""
    args = _arguments(argv)
    names = [name for name in CONTENDERS if not args.only or name in args.only]
    try:
        epochs = _epochs(args, names)
        scores = {name: [_run(args, name, seed, epochs[name]) for seed in args.seeds] for name in names}
    except UserError as error:
        print(f"compare_methods: {error}", file=sys.stderr)
        return 2
    summary = {name: {"epochs": epochs[name], **_spread(found)} for name, found in scores.items()}
    write_json(args.out / f"equal_{args.equal}.json", summary)
    console.print(_table(summary, args.equal))
    return 0


def _epochs(args: argparse.Namespace, names: list[str]) -> dict[str, float]:
    """How long each contender trains. Times are taken once and kept in DIR/steps.json."""
    base = load_config(args.base, args.overrides)[0].epochs
    if args.equal == "epochs":
        return dict.fromkeys(names, base)
    file = args.out / "steps.json"
    if not file.is_file():
        configs = {name: _config(args, name, args.seeds[0], base) for name in CONTENDERS}
        config = configs["linear"]
        set_numerics(config.precision)
        classes = len(open_source(config.data, config.seed).classes)
        seconds = interleaved_seconds({name: new_step(each, classes) for name, each in configs.items()}, repeats=7)
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(file, {"ratio_to_linear": ratios(seconds, to="linear"), "seconds": seconds})
    ratio = json.loads(file.read_text(encoding="utf-8"))["ratio_to_linear"]
    return {name: max(round(4 * base / ratio[name]) / 4, 0.25) for name in names}


def _config(args: argparse.Namespace, name: str, seed: int, epochs: float) -> Config:
    overrides = [*CONTENDERS[name], *args.overrides, f"seed={seed}", f"epochs={epochs}"]
    return load_config(args.base, overrides)[0]


def _run(args: argparse.Namespace, name: str, seed: int, epochs: float) -> dict[str, float]:
    config, folder = (
        _config(args, name, seed, epochs),
        args.out / f"{name.replace(', ', '-').replace(' ', '_')}-{epochs:g}",
    )
    part = open_source(config.data, seed).test
    if part is None:
        raise UserError(f"{args.base}: data.test: not set, expected the index to score")
    folder.mkdir(parents=True, exist_ok=True)
    run, log = folder / f"seed-{seed}", folder / f"seed-{seed}.log"
    with log.open("a", encoding="utf-8") as lines, redirect_stdout(lines):
        if train(config, run) != 0:
            raise UserError(f"{run}: stopped before its end; the same command goes on from there")
    return _scores(run, part, config)


def _scores(run: Path, part: Part, config: Config) -> dict[str, float]:
    """mAP of each view over the classes that were learnt and over all; then the strata of the clean view."""
    trained = open_trained(run / "checkpoints" / "latest")
    ids = part.ids
    train_part = open_source(config.data, config.seed).train
    learnt = dict(zip(part.index.classes, (train_part.labels_NC == 1).sum(0) >= LEARNT))
    found: dict[str, float] = {}
    for view in VIEWS:
        summary = evaluate(
            predict_alone(trained, part, masks=_masks(view, config.model.size, tuple(ids))), part, config
        )
        scored = {name: ap for name, ap in summary["AP"].items() if ap is not None}
        found[f"{view}, learnt classes"] = float(np.mean([ap for name, ap in scored.items() if learnt[name]]))
        found[f"{view}, all classes"] = summary["mAP"]
        if view == "clean":
            found |= _strata(summary["stratified"])
    return found


@cache
def _masks(view: str, size: int, ids: tuple[str, ...]) -> FixedMasks | None:
    match view:
        case "low" | "high":
            return evaluation_masks(view, size, list(ids))
        case "blocks":  # a seventh of the side, as 32 px are of 224
            return evaluation_blocks(max(size // 7, 1), 0.5, size, list(ids))
    return None


def _strata(stratified: dict[str, Any] | None) -> dict[str, float]:
    """AP and recall of the classes seen in one way only, with the number of pairs in the name of the row."""
    found = {}
    for division in (stratified or {}).values():
        for name, row in (division.get("strata") or {}).items():
            if row["mAP"] is not None:
                found[f"{name} ({row['positives']} pairs), mAP"] = row["mAP"]
                found[f"{name} ({row['positives']} pairs), recall"] = row["OR"]
    return found


def _spread(found: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    summary = {}
    for key in found[0]:
        values = [scores[key] for scores in found]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summary[key] = {"mean": float(np.mean(values)), "spread": deviation, "seeds": values}
    return summary


def _table(summary: dict[str, Any], equal: str) -> Table:
    table = Table(title=f"equal {equal}", title_justify="left")
    for column in ("score", *(f"{name}\n{row['epochs']:g} epochs" for name, row in summary.items())):
        table.add_column(column, justify="left" if column == "score" else "right")
    for key in [key for key in next(iter(summary.values())) if key != "epochs"]:
        cells = []
        for row in summary.values():
            spread = row[key]["spread"]
            cells.append(f"{row[key]['mean']:.1f}" + ("" if spread is None else f" +- {spread:.1f}"))
        table.add_row(key, *cells)
    return table


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--equal", choices=("epochs", "time"), default="epochs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=tuple(CONTENDERS), metavar="CONTENDER")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
