"""What can be done with a finished run: the commands that its log ends with."""

from pathlib import Path
from typing import Any

from masksup.base.files import read_json
from masksup.base.log import log
from masksup.base.next_steps import Step, tell_next
from masksup.calibration import LEAST_POSITIVES
from masksup.errors import UserError


def after_training(folder: Path, result: dict[str, Any]) -> list[Step]:
    """Of the run in `folder`, whose result.json holds `result`."""
    scored = result.get("best", result.get("last", {}))
    enough = sum(scored.get("eval", {}).get("positives", {}).values()) >= LEAST_POSITIVES  # or `calibrate` would refuse
    return [
        (("masksup", "predict", folder, "PHOTOS", "--pictures", "labelled"), "labels for your images"),
        *([(("masksup", "calibrate", folder), "a threshold for each class")] if enough else []),
        (("masksup", "report", folder), "a page with scores, curves and mistakes"),
    ]


def tell_finished(folder: Path) -> None:
    """Where a run that is finished is to be trained: its scores stand, and what comes next."""
    file = folder / "result.json"
    log.info(f"{folder}: this run is finished; its scores are in {file}")
    try:
        tell_next(*after_training(folder, read_json(file, "the result of a run")))
    except UserError as error:  # training has nothing to do all the same
        log.warning(str(error))
