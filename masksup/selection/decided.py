"""The settings that a search decides by itself or by an option: no `key=value` may change them.

A rung that another value replaced would be judged and told under a title that is not its own.
"""

from masksup.config.load import dump
from masksup.config.messages import items
from masksup.config.schema import Config
from masksup.errors import UserError

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
    "model.octaves": "leave it out: some settings differ in it",
    "model.frozen": "leave it out: some settings differ in it",
    "model.head.name": "leave it out: some settings differ in it",
}


def refuse_decided(own: Config, asked: Config) -> None:
    """UserError where the words of the command line change what the search decides. own: without these words."""
    values, ours = dict(items(dump(asked))), dict(items(dump(own)))
    for key, instead in _INSTEAD.items():
        if values.get(key) != ours.get(key):
            found = str(value).lower() if isinstance(value := values.get(key), bool) else value
            raise UserError(f"command line: {key}: found {found}, but masksup auto sets it; {instead}")
