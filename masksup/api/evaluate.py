"""Scores from Python: those of `masksup eval`."""

import os
import signal
from pathlib import Path
from typing import Any

from masksup.base import signals
from masksup.base.place import find_place
from masksup.config.load import dump, validate
from masksup.config.schema import Config
from masksup.data.masks import Level
from masksup.errors import JobError, UserError
from masksup.exits import told_plainly
from masksup.saved.open import WhichWeights
from masksup.saved.running import Running
from masksup.saved.score import scores_of, scoring_of

_ANY: dict[str, Any] = {"data": {"train": ""}, "model": {"backbone": ""}}


def evaluate(
    model: str | os.PathLike[str], data: str | os.PathLike[str] | None, rules: dict[str, Any], masked: Level | None,
    weights: WhichWeights, running: Running,
) -> dict[str, Any]:  # fmt: skip
    """See `masksup.evaluate`. rules: keys of `eval`; None: the run's own."""
    given = {key: value for key, value in rules.items() if value is not None}
    checked = _checked(given)
    for option, found, known in (
        ("masked", masked, (None, "low", "high")),
        ("weights", weights, ("auto", "live", "ema")),
    ):
        if found not in known:
            raise UserError(f"{option}: found {found!r}, expected {', '.join(map(str, known))}")
    with told_plainly(), signals.caught("finishes these images, keeps what is done and leaves" if _first() else ""):
        where = None if data is None else Path(data)
        values = {key: getattr(checked.eval, key) for key in given}
        with scoring_of(Path(model), where, weights, values, masked, running) as scoring:
            summary = scores_of(scoring)
        name = signals.stop_requested()
    if summary is not None:
        return summary
    if name == signal.SIGINT.name:
        raise KeyboardInterrupt
    raise JobError(f"{model}: stopped by {name or 'another rank'}; the same call goes on from there")


def _checked(rules: dict[str, Any]) -> Config:
    tree = dump(Config.model_validate(_ANY))
    return validate(tree | {"eval": {**tree["eval"], **rules}}, "masksup.evaluate")


def _first() -> bool:
    return find_place().first
