"""Choose settings without touching the test set: every combination of `--vary` on every fold of `data.train`.

    python tools/cross_validate.py CONFIG --folds 5 --vary optim.lr=0.003,0.01 optim.weight_decay=0,0.1 --out DIR

Each combination is trained once a fold, on the other folds, by the same code as `masksup train`; `data.eval` and
`data.test` are not opened. The score that ranks them pools the held-out logits of all folds and takes the mean AP over
classes with at least `--min-positives` positives in `data.train`: a fold alone holds too few positives of a class.
The last weights are scored, not the best epoch, as the held-out images may not choose it.

Held-out logits are kept in DIR/held_out, so the same command, or a wider grid, only computes what is missing; features
of a frozen backbone are computed once, in DIR/features.
"""

import argparse
import hashlib
import itertools
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from masksup.base.files import write_json
from masksup.config.load import load_config, to_yaml
from masksup.config.schema import Config
from masksup.data.split import Part, open_source, whole
from masksup.engine.features import compute_features
from masksup.engine.precision import choose_device, choose_dtype, memory_format, set_numerics
from masksup.errors import UserError
from masksup.evaluation.blocks import count_blocks, feature_blocks
from masksup.evaluation.collect import Outputs
from masksup.evaluation.forward import Predictor, run_model
from masksup.exits import status_of
from masksup.metrics.average_precision import average_precision
from masksup.output.scores import write_predictions
from masksup.saved.open import Trained, open_trained
from masksup.saved.outputs import predict_alone
from masksup.training.train import train

Setting = tuple[str, ...]  # its overrides, such as ("optim.lr=0.01", "optim.weight_decay=0.1")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, best first, and write DIR/cross_validation.json. Exit status 2 for a mistake in the input."""
    args = _parser().parse_args(argv)
    return status_of("cross_validate", lambda: _cross_validate(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, metavar="CONFIG")
    parser.add_argument("--vary", nargs="+", default=[], metavar="KEY=V1,V2", help="values to try; all combinations")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings that all runs share")
    parser.add_argument("--folds", type=int, default=5, help="parts that data.train is cut into (default: 5)")
    parser.add_argument("--only", type=int, default=None, metavar="N", help="hold out the first N folds alone: cheaper")
    parser.add_argument("--min-positives", type=int, default=5, metavar="N", help="of a class that counts (default: 5)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser


def _cross_validate(args: argparse.Namespace) -> None:
    held = args.folds if args.only is None else args.only
    if not 1 <= held <= args.folds:
        raise UserError(f"--only: found {held}, expected 1 to {args.folds}")
    settings = list(combinations(args.vary))
    # All of them first: a typing mistake should not show after an hour.
    runs = {s: [fold_config(args.config, [*args.set, *s], args.folds, k, args.out) for k in range(held)]
            for s in settings}  # fmt: skip
    rows, console = [], Console()
    for setting in track(settings, "settings", console=console):
        began = time.monotonic()
        folds = [held_out(config, args.out) for config in runs[setting]]
        config = runs[setting][0]
        train_labels_NC = np.asarray(open_source(config.data, config.seed).train.index.labels_NC)
        counted_C = (train_labels_NC == 1).sum(0) >= args.min_positives
        row = {"setting": list(setting), **pooled_scores(folds, counted_C, config), "seconds": time.monotonic() - began}
        rows.append(row)
        console.print(f"{row['mAP']:.2f}  {' '.join(setting)}", markup=False, highlight=False)
    rows.sort(key=lambda row: -row["mAP"])
    protocol = (
        f"mean AP ({runs[settings[0]][0].eval.ap_rule}) over the pooled held-out images of {held} of {args.folds} "
    )
    protocol += f"folds of data.train, classes with at least {args.min_positives} positives; last weights"
    _print(rows, protocol, console)
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {"config": str(args.config), "set": args.set, "folds": args.folds, "held_out": held, "protocol": protocol}
    write_json(args.out / "cross_validation.json", {**facts, "rows": rows})
    console.print(f"written: {args.out / 'cross_validation.json'}")


def combinations(vary: Sequence[str]) -> Iterator[Setting]:
    """All combinations of "key=v1,v2" arguments; commas within [] or {} belong to the value."""
    axes = []
    for text in vary:
        key, equals, values = text.partition("=")
        if not equals or not key or not values:
            raise UserError(f"--vary: found '{text}', expected key=value1,value2")
        axes.append([f"{key}={value}" for value in re.split(r",(?![^\[{]*[\]}])", values)])
    return itertools.product(*axes)


def fold_config(path: Path, overrides: Sequence[str], folds: int, fold: int, out: Path) -> Config:
    """The run that holds out `fold`: no other index is opened, and it is scored once, at its end."""
    ours = ["data.eval=null", "data.test=null", f"data.folds={folds}", f"data.fold={fold}"]
    config, _ = load_config(path, [*overrides, *ours, "log.images=0", "log.pr_curves=false"])
    ours += [f"eval.every_epochs={config.epochs}", "log.images=0", "log.pr_curves=false"]
    if config.model.frozen and config.model.features is None:
        ours.append(f"model.features={json.dumps(str(out / 'features'))}")
    return load_config(path, [*overrides, *ours])[0]


def held_out(config: Config, out: Path) -> dict[str, Any]:
    """Logits and labels of the held-out fold (the arrays of `write_predictions`), from DIR/held_out if they are there.

    The file is named by the settings and the data, so that it is never taken for another run's.
    """
    source = open_source(config.data, config.seed)
    assert source.eval is not None
    facts = to_yaml(config) + json.dumps(source.hashes)
    name = hashlib.sha256(facts.encode()).hexdigest()[:16]
    file, run_dir = out / "held_out" / f"{name}.npz", out / "runs" / name
    if not file.exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        with (out / "runs" / f"{name}.log").open("a", encoding="utf-8") as lines, redirect_stdout(lines):
            if train(config, run_dir) != 0:
                raise UserError(f"{run_dir}: stopped before its end; the same command goes on from there")
            outputs = predict_held_out(open_trained(run_dir), source.eval)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(file, outputs.logits_NC, source.eval)
        shutil.rmtree(run_dir)  # a checkpoint a fold would fill the disk
    with np.load(file) as arrays:
        return {key: arrays[key] for key in ("logits", "labels")}


def predict_held_out(trained: Trained, part: Part) -> Outputs:
    """Logits of `part`; a frozen backbone's features are read, not computed again."""
    config = trained.config
    if not config.model.frozen:
        return predict_alone(trained, part)
    set_numerics(config.precision)
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    trained.method.to(device).to(memory_format=memory_format(config.precision))
    assert config.model.features is not None
    features = compute_features(
        trained.network, whole(part.index), config, Path(config.model.features), device, dtype, False, print
    )
    blocks = feature_blocks(features, part, config, range(count_blocks(part, config)))
    return run_model(Predictor(trained.network.head, config, device, dtype), blocks)


def pooled_scores(folds: Sequence[dict[str, Any]], counted_C: Any, config: Config) -> dict[str, Any]:
    """Percent: mAP over counted classes and over all, folds pooled; and mean and spread of the folds' own mAP."""
    logits_NC = np.concatenate([fold["logits"] for fold in folds])
    labels_NC = np.concatenate([fold["labels"] for fold in folds])
    ap_C = 100 * average_precision(logits_NC, labels_NC, config.eval.ap_rule)
    each = [
        float(np.nanmean(100 * average_precision(f["logits"], f["labels"], config.eval.ap_rule)[counted_C]))
        for f in folds
    ]
    return {
        "mAP": float(np.nanmean(ap_C[counted_C])), "mAP_all_classes": float(np.nanmean(ap_C)),
        "classes": int(np.isfinite(ap_C[counted_C]).sum()), "all_classes": int(np.isfinite(ap_C).sum()),
        "images": len(labels_NC), "fold_mAP": each,
    }  # fmt: skip


def _print(rows: Sequence[dict[str, Any]], protocol: str, console: Console) -> None:
    table = Table(title=protocol, title_justify="left")
    table.add_column("setting")
    for name in (f"mAP, {rows[0]['classes']} classes", f"{rows[0]['all_classes']} classes", "mean of folds", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            " ".join(row["setting"]).replace("[", r"\[") or "as configured", f"{row['mAP']:.2f}",
            f"{row['mAP_all_classes']:.2f}", f"{np.mean(row['fold_mAP']):.2f}", f"{row['seconds']:.0f}",
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
