"""`masksup pack`: a trained model with its decisions and its card in one file."""

import argparse
from pathlib import Path

from masksup.base.words import counted
from masksup.commands.options import add_model, model_of
from masksup.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.zip", help="the archive to write")


def run(args: argparse.Namespace) -> None:
    """Write the archive of a run folder or checkpoint; `eval`, `predict` and `masksup.load` take it."""
    from masksup.base.files import refuse_unwritable
    from masksup.base.log import log, start_logging
    from masksup.saved.decisions_of import decisions_for
    from masksup.saved.model_card import model_card
    from masksup.saved.open import open_trained
    from masksup.saved.packed import Packed, write_packed

    path, out = model_of(args), args.out
    start_logging()
    if out.suffix != ".zip":
        raise UserError(f"--out: found '{out.name}', expected a name that ends in .zip")
    if out.is_dir():
        raise UserError(f"--out {out}: found a folder, expected a file")
    refuse_unwritable(out.parent)
    trained = open_trained(path, args.weights)
    decisions = decisions_for(trained)
    packed = Packed(
        trained.config, trained.classes, decisions, dict(trained.network.state_dict()), trained.checkpoint,
        trained.sha256, trained.step, trained.epoch, trained.weights, trained.note, trained.reading,
    )  # fmt: skip
    write_packed(out, packed, model_card(trained, decisions))
    fitted = f"thresholds for {decisions.aim}" if decisions.fitted else "no thresholds were fitted (masksup calibrate)"
    log.info(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {trained.checkpoint} ({trained.weights} weights), "
        f"{counted(len(trained.classes), 'class')}, {fitted}"
    )
