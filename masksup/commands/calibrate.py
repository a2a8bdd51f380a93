"""`masksup calibrate`: thresholds and calibration of a run, fitted on its evaluation split and kept with it."""

import argparse
from pathlib import Path

from masksup.base.json_option import add_json, given_as_json
from masksup.calibration import LEAST_POSITIVES
from masksup.commands.options import add_model, model_of
from masksup.saved.running import add_running, running_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--data", type=Path, metavar="INDEX", help="index to fit to (default: the run's data.eval)")
    parser.add_argument(
        "--aim", default="f1", metavar="AIM", help="f1 (default), precision=P, recall=R or budget=K labels an image"
    )
    parser.add_argument(
        "--method", choices=("none", "temperature", "platt", "isotonic"), default="platt",
        help="calibration of the probabilities (default: platt, a slope and an offset for each class)",
    )  # fmt: skip
    parser.add_argument(
        "--rule", choices=("shared", "per-class", "mixed", "shrunk"), default="mixed",
        help="mixed (default): classes with few positives share a threshold; shrunk: each class has its own, pulled "
             "towards the shared one",
    )  # fmt: skip
    parser.add_argument(
        "--min-positives",
        type=int,
        default=LEAST_POSITIVES,
        metavar="N",
        help="a class with fewer positives than this has few of them, see --rule (default: %(default)s)",
    )
    parser.add_argument("--folds", type=int, default=5, metavar="K", help="folds of the cross-validation (default: 5)")
    parser.add_argument(
        "--bootstrap", type=int, default=200, metavar="N", help="resamples for the bounds of thresholds (default: 200)"
    )
    parser.add_argument(
        "--class", action="append", default=[], dest="given", metavar="NAME=P",
        help="set the threshold of a class by hand, such as apple=0.4; may be repeated",
    )  # fmt: skip
    add_json(parser, "what calibration.json of the run holds")
    add_running(parser)


def run(args: argparse.Namespace) -> None:
    """Fit, show and keep, as `masksup.calibration.calibrate.calibrate` says."""
    from masksup.calibration.calibrate import CalibrationOptions, calibrate

    wanted = CalibrationOptions(
        args.aim, args.method, args.rule, args.min_positives, args.folds, args.bootstrap, tuple(args.given)
    )
    with given_as_json(args.json) as give:
        give(calibrate(model_of(args), args.data, args.weights, wanted, running_of(args)))
