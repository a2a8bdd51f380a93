"""Choose settings without touching the test set: every combination of `--vary` on every fold of `data.train`.

    python -m tools.cross_validate CONFIG --folds 5 --vary optim.lr=0.003,0.01 optim.weight_decay=0,0.1 --out DIR

Each combination is trained once a fold, on the other folds, by the same code as `masksup train`; `data.eval` and
`data.test` are not opened. The score that ranks them pools the held-out logits of all folds and takes the mean AP over
classes with at least `--min-positives` positives in `data.train`: a fold alone holds too few positives of a class.
The last weights are scored, not the best epoch, as the held-out images may not choose it.

Held-out logits are kept in DIR/held_out, so the same command, or a wider grid, only computes what is missing; features
of a frozen backbone are computed once, in DIR/features.
"""

import argparse
import itertools
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from masksup.base.files import write_json
from masksup.config.schema import Config
from masksup.data.split import open_source
from masksup.errors import UserError
from masksup.evaluation.kept import Stopped
from masksup.exits import status_of
from masksup.metrics.average_precision import average_precision
from masksup.selection.out_of_fold import HeldOut, fold_config, held_out_fold, pooled

Setting = tuple[str, ...]  # its overrides, such as ("optim.lr=0.01", "optim.weight_decay=0.1")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, best first, and write DIR/cross_validation.json. Exit status 2 for a mistake in the input."""
    args = _parser().parse_args(argv)
    return status_of("cross_validate", _cross_validate, args)


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
    runs = {s: [fold_config(args.config, [*args.set, *s], args.folds, k, args.out / "features") for k in range(held)]
            for s in settings}  # fmt: skip
    rows, console = [], Console()
    for setting in track(settings, "settings", console=console):
        began = time.monotonic()
        try:
            folds = [held_out_fold(config, args.out) for config in runs[setting]]
        except Stopped:
            raise UserError("stopped before its end; the same command goes on from there") from None
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


def pooled_scores(folds: Sequence[HeldOut], counted_C: Any, config: Config) -> dict[str, Any]:
    """Percent: mAP over counted classes and over all, folds pooled; and mean and spread of the folds' own mAP."""
    together = pooled(folds)
    labels_NC = together.labels_NC
    ap_C = 100 * average_precision(together.logits_NC, labels_NC, config.eval.ap_rule)
    each = [
        float(np.nanmean(100 * average_precision(f.logits_NC, f.labels_NC, config.eval.ap_rule)[counted_C]))
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
