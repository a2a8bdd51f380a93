"""What thresholds are worth on samples that they were not fitted on, by how many samples they were fitted on.

    python -m tools.threshold_rules scores.npz --samples 100 300 1000 3000

The file is one of `masksup eval --predictions` (ids, classes, logits, labels), or any .npz with labels N x C (1, 0, -1
ignored) and a matrix of logits, or of probabilities (`--probabilities NAME`). Some samples are drawn, the rules of
`masksup calibrate` are fitted to them, and F1 (mean over classes) and OF1 are computed on all others; that is repeated
with other draws. Prints a table of means, the in-sample F1 beside it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masksup.calibration.aims import Aim
from masksup.calibration.cross_validation import RULES, sharing_by
from masksup.calibration.fit import fit_calibration
from masksup.calibration.thresholds import fit_thresholds
from masksup.errors import UserError
from masksup.metrics.pairs import Labels
from masksup.metrics.precision_recall import decision_scores

PLAIN = "0.5, uncalibrated"


def main(argv: list[str] | None = None) -> int:
    """Print the table. Returns 0, or 2 for a file that does not hold what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.npz")
    parser.add_argument("--probabilities", metavar="NAME", help="matrix of probabilities, in place of `logits`")
    parser.add_argument("--voc-labels", action="store_true", help="labels are 1 present, 0 only difficult, -1 absent")
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 300, 1000, 3000])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--method", choices=("none", "temperature", "platt", "isotonic"), default="platt")
    parser.add_argument("--min-positives", type=int, default=50)
    args = parser.parse_args(argv)
    try:
        logits_NC, labels_NC = read(args.file, args.probabilities, args.voc_labels)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"| fitted on | {' | '.join((PLAIN, *RULES))} |")
    print("|---" * (len(RULES) + 2) + "|")
    for count in args.samples:
        found = study(logits_NC, labels_NC, count, args.repeats, args.method, args.min_positives)
        cells = [f"{f1:.2f} / {of1:.2f} ({inside:.2f})" for f1, of1, inside in found.values()]
        print(f"| {count} | {' | '.join(cells)} |", flush=True)
    return 0


def read(file: Path, probabilities: str | None, voc_labels: bool) -> tuple[NDArray[np.float64], Labels]:
    """Logits N x C and labels (1, 0, -1 ignored)."""
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    with np.load(file, allow_pickle=False) as arrays:
        for name in (probabilities or "logits", "labels"):
            if name not in arrays:
                raise UserError(f"{file}: found no '{name}' in it, but {', '.join(arrays)}")
        scores_NC = arrays[probabilities or "logits"].astype(np.float64)
        labels_NC = arrays["labels"].astype(np.int8)
    if probabilities:
        scores_NC = scores_NC.clip(1e-7, 1 - 1e-7)
        scores_NC = np.log(scores_NC / (1 - scores_NC))
    if voc_labels:
        labels_NC = np.select([labels_NC == 1, labels_NC == 0], [np.int8(1), np.int8(-1)], np.int8(0))
    return scores_NC, labels_NC


def study(
    logits_NC: NDArray[np.float64], labels_NC: Labels, count: int, repeats: int, method: str, least: int
) -> dict[str, NDArray[np.float64]]:
    """For each rule, fitted to `count` samples: F1 and OF1 of all others, and in-sample F1; means over the draws."""
    rows: dict[str, list[tuple[float, float, float]]] = {rule: [] for rule in (PLAIN, *RULES)}
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(len(labels_NC))
        fit, rest = order[:count], order[count:]
        calibration = fit_calibration(method, logits_NC[fit], labels_NC[fit], least)
        calibrated = {part: calibration(logits_NC[part_rows]) for part, part_rows in (("fit", fit), ("rest", rest))}
        for rule in RULES:
            sharing = sharing_by(rule, labels_NC[fit], least)
            thresholds_C = fit_thresholds(Aim("f1"), calibrated["fit"], labels_NC[fit], sharing).thresholds_RC[0]
            inside = decision_scores(calibrated["fit"] >= thresholds_C, labels_NC[fit])
            outside = decision_scores(calibrated["rest"] >= thresholds_C, labels_NC[rest])
            rows[rule].append((outside["F1"], outside["OF1"], inside["F1"]))
        inside, outside = (decision_scores(logits_NC[part] >= 0, labels_NC[part]) for part in (fit, rest))
        rows[PLAIN].append((outside["F1"], outside["OF1"], inside["F1"]))
    return {rule: np.mean(found, axis=0) for rule, found in rows.items()}


if __name__ == "__main__":
    sys.exit(main())
