"""`masksup pack`: a trained model with its decisions and its card in one file."""

from pathlib import Path

from masksup.base.files import refuse_unwritable
from masksup.base.log import log, start_logging
from masksup.errors import UserError
from masksup.saved.decisions_of import decisions_for
from masksup.saved.model_card import model_card
from masksup.saved.open import WhichWeights, open_trained
from masksup.saved.packed import Packed, write_packed


def run_pack(path: Path, out: Path, weights: WhichWeights) -> int:
    """Write the archive `out` of a run folder or checkpoint; `eval`, `predict` and `masksup.load` take it."""
    start_logging()
    if out.suffix != ".zip":
        raise UserError(f"--out: found '{out.name}', expected a name that ends in .zip")
    if out.is_dir():
        raise UserError(f"--out {out}: found a folder, expected a file")
    refuse_unwritable(out.parent)
    trained = open_trained(path, weights)
    decisions = decisions_for(trained)
    packed = Packed(
        trained.config, trained.classes, decisions, dict(trained.network.state_dict()), trained.checkpoint,
        trained.sha256, trained.step, trained.epoch, trained.weights, trained.note,
    )  # fmt: skip
    write_packed(out, packed, model_card(trained, decisions))
    fitted = f"thresholds for {decisions.aim}" if decisions.fitted else "no thresholds were fitted (masksup calibrate)"
    log.info(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, {trained.checkpoint} ({trained.weights} weights), "
        f"{len(trained.classes)} classes, {fitted}"
    )
    return 0
