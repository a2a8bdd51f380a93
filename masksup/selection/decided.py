"""The settings that a search decides by itself or by an option: no `key=value` may change them.

A rung that another value replaced would be judged and told under a title that is not its own.
"""

import re
from collections.abc import Iterable

from masksup.config.load import dump, parsed
from masksup.config.messages import items
from masksup.config.schema import Config
from masksup.errors import UserError

_DIFFERS = "leave it out: some settings differ in it"
_INSTEAD = {
    "data.train": "give the images by --data or --csv",
    "data.eval": "leave it out: each fold of the training part is held out in turn",
    "data.test": "give these images by --test",
    "data.folds": "give the number by --folds",
    "data.fold": "leave it out: each fold is held out in turn",
    "seed": "give it by --seed",
    "model.backbone": "give it by --backbone",
    "model.weights": "give them by --weights",
    "model.size": "give the smaller side by --size",
    "model.octaves": _DIFFERS,
    "model.frozen": _DIFFERS,
    "model.head.name": _DIFFERS,
    "method.name": "give --robust to try MaskSup",
    "epochs": _DIFFERS,
    "optim.name": _DIFFERS,
    "stop.patience_epochs": "leave it out: a fold that is held out must not end the training that it judges",
}


def refuse_decided(own: Config, words: Iterable[str]) -> None:
    """UserError where the words of the command line change what the search decides. own: without these words."""
    ours = dict(items(dump(own)))
    for word in words:
        name, given, _ = parsed(word)
        for key, value in items({name: given}):
            if key in _INSTEAD and value != ours.get(key):
                found = str(value).lower() if isinstance(value, bool) else value
                raise UserError(f"command line: {key}: found {found}, but masksup auto sets it; {_INSTEAD[key]}")


def as_options(message: str) -> str:
    """A message about settings, with the options that `masksup auto` has for those that it names."""
    named = [
        f"{key}: {instead}" for key, instead in _INSTEAD.items()
        if "--" in instead and re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", message)
    ]  # fmt: skip
    return message if "masksup auto" in message or not named else f"{message} (in masksup auto, {'; '.join(named)})"
