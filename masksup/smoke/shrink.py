"""A configuration made small: a stand-in for its backbone, 64 px, narrow heads, few masks, 8 images a step."""

import re
from pathlib import Path

from masksup.config.load import load_config
from masksup.config.schema import Config

BATCH = 8
SIZE = 64


def shrunk(file: Path, data: Path) -> Config:
    """The configuration in `file`, to be trained for one epoch on the indexes train, val (and test) in `data`.

    Head, loss, method, optimiser, schedule and augmentation stay what they are. UserError as for any configuration.
    """
    config = load_config(file)[0]
    changes = {
        "epochs": 1, "batch.global": BATCH, "data.train": data / "train", "data.eval": data / "val", "data.folds": 0,
        "data.workers": 0, "model.backbone": stand_in(config), "model.weights": "none", "model.batchnorm": "batch",
        "model.size": SIZE, "model.features": "null", "precision.threads": 1, "log.every_steps": 1, "log.images": 0,
        "log.pr_curves": "false", "log.plots": "false",
        "schedule.warmup_epochs": min(config.schedule.warmup_epochs, 0.5),
    }  # fmt: skip
    if config.batch.micro is not None:
        changes["batch.micro"] = BATCH // 2
    if config.model.lora.rank:
        changes["model.lora.rank"] = min(config.model.lora.rank, 4)
    if config.data.test is not None:
        changes["data.test"] = data / "test"
    for part, options in (("model.head", config.model.head.options), ("method", config.method.options)):
        fewer = {"embedding": 32, "feedforward": 64, "bank": 16}
        changes |= {f"{part}.{key}": value for key, value in fewer.items() if key in options}
    return load_config(file, [f"{key}={value}" for key, value in changes.items()])[0]


def stand_in(config: Config) -> str:
    """A small network that normalises and lays out its map as the configuration's does."""
    stand_ins = {"vit|eva|swin": "test_vit", "convnext": "test_convnext"}
    found = (name for kinds, name in stand_ins.items() if re.match(kinds, config.model.backbone))
    return next(found, "test_resnet")
