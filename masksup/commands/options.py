"""Options that several commands have."""

import argparse
from pathlib import Path

from masksup.errors import UserError


def add_path(parser: argparse.ArgumentParser) -> None:
    """The argument that names a trained model."""
    parser.add_argument(
        "model", type=Path, metavar="RUN_OR_CHECKPOINT", help="run folder, checkpoint or packed archive"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """The same with the options that choose among a run's checkpoints and weights."""
    add_path(parser)
    parser.add_argument(
        "--weights",
        choices=("auto", "live", "ema"),
        default="auto",
        help="live, or their moving average (ema); auto: as the run chose",
    )
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="another checkpoint of the run, such as latest (default: best)"
    )


def model_of(args: argparse.Namespace) -> Path:
    """The model that was chosen. UserError for a checkpoint that the run does not have. Loads torch."""
    from masksup.saved.open import at_checkpoint

    return at_checkpoint(args.model, args.checkpoint)


def refuse_threshold(threshold: float | None) -> None:
    """UserError for a `--threshold` that is no probability."""
    if threshold is not None and not 0 < threshold < 1:
        raise UserError(f"--threshold: found {threshold}, expected a probability between 0 and 1")
