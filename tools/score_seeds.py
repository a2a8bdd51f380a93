"""Train a configuration with several seeds and score each once on `data.test`: mean and spread.

    python -m tools.score_seeds CONFIG --seeds 0 1 2 --out DIR [key=value ...]

Each seed is a run folder DIR/seed-N, so the same command goes on where it stopped. The last weights are scored. The
first column counts the classes with at least `--min-positives` positives in `data.train`, the second all that have a
positive in `data.test`. The spread is the sample standard deviation.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from masksup.base.files import write_json
from masksup.config.load import load_config
from masksup.data.split import open_source
from masksup.errors import UserError
from masksup.training.train import train

Scores = dict[str, tuple[float, int]]  # name -> (mAP in percent, number of classes)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line a seed and the mean, and write DIR/seeds.json. Exit status 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, metavar="CONFIG")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--min-positives", type=int, default=5, metavar="N", help="in data.train (default: 5)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_intermixed_args(argv)
    try:
        found = [_score(args.config, args.overrides, seed, args.min_positives, args.out) for seed in args.seeds]
    except UserError as error:
        print(f"score_seeds: {error}", file=sys.stderr)
        return 2
    summary = {}
    for name in found[0]:
        values = [scores[name][0] for scores in found]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summary[name] = {
            "mean": float(np.mean(values)),
            "spread": spread,
            "seeds": values,
            "classes": found[0][name][1],
        }
        shown = "" if spread is None else f" +- {spread:.2f}"
        print(f"{name} ({found[0][name][1]} classes): mAP {np.mean(values):.2f}{shown} over seeds {args.seeds}")
    write_json(args.out / "seeds.json", summary)
    return 0


def _score(path: Path, overrides: Sequence[str], seed: int, min_positives: int, out: Path) -> Scores:
    config, _ = load_config(path, [*overrides, f"seed={seed}"])
    source = open_source(config.data, config.seed)
    if source.test is None:
        raise UserError(f"{path}: data.test: not set, expected the index to score")
    run = out / f"seed-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"seed-{seed}.log").open("a", encoding="utf-8") as lines, redirect_stdout(lines):
        if train(config, run) != 0:
            raise UserError(f"{run}: stopped before its end; the same command goes on from there")
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    learnt = dict(zip(source.classes, (source.train.labels_NC == 1).sum(0) >= min_positives))
    scores = mean_scores(result["last"]["test"]["AP"], learnt)
    print(f"seed {seed}: " + ", ".join(f"{name} {value:.2f}" for name, (value, _) in scores.items()), flush=True)
    return scores


def mean_scores(ap: dict[str, float | None], learnt: dict[str, bool]) -> Scores:
    """mAP over the scored classes that are `learnt`, and over all scored classes; None in `ap` is a class unscored."""
    scored = {name: value for name, value in ap.items() if value is not None}
    some = [value for name, value in scored.items() if learnt[name]]
    return {
        "learnt classes": (float(np.mean(some)), len(some)),
        "all classes": (float(np.mean(list(scored.values()))), len(scored)),
    }


if __name__ == "__main__":
    sys.exit(main())
