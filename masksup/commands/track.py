"""`masksup track`: runs in MLflow or Weights & Biases, from their folders; on the login node, say."""

import argparse
from pathlib import Path

from masksup.errors import UserError

_EVERY_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, finished or not")
    parser.add_argument("--to", choices=("mlflow", "wandb"), required=True, help="the tracker")
    parser.add_argument(
        "--project",
        default="masksup",
        metavar="NAME",
        help="project in W&B, or experiment in MLflow (default: masksup)",
    )
    parser.add_argument(
        "--uri", metavar="URI", help="MLflow only: a server, sqlite:///FILE or a folder (default: MLFLOW_TRACKING_URI)"
    )
    parser.add_argument("--follow", action="store_true", help="send new points until the runs have ended")
    parser.add_argument("--every", type=float, metavar="S", help=f"seconds between two looks (default: {_EVERY_S:g})")
    parser.add_argument("--artifacts", action="store_true", help="also send configuration, result and record as files")


def run(args: argparse.Namespace) -> None:
    """Send what the tracker does not have yet. UserError and JobError as of `masksup.track.follow.track`."""
    from masksup.base.log import start_logging
    from masksup.track.follow import track
    from masksup.track.open import open_tracker

    if args.every is not None and not (args.follow and args.every > 0):
        raise UserError(f"--every: found {args.every:g}, expected seconds above 0, together with --follow")
    start_logging()
    every = (args.every or _EVERY_S) if args.follow else None
    tracker = open_tracker(args.to, args.project, args.uri)
    track(args.runs, tracker, args.to, artifacts=args.artifacts, every=every)
