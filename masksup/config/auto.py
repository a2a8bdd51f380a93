"""What `auto` becomes: decided once, before the first step, and written into the run folder as a value."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masksup.config.conflicts import unfit_for_prior
from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.config.yaml_text import read_yaml

SMALL_BATCH = 64
"""Samples of a micro-batch from which batch norm estimates its statistics well enough itself."""

# What the versions did that had no such key: in the config.yaml of an older run folder it is missing.
_BEFORE = {("model", "head_start"): "random", ("model", "batchnorm"): "batch", ("parallel", "sum"): "ring"}


def read_recorded(file: Path) -> Config:
    """The configuration of a run folder. A key that its version did not know has the value of what it did."""
    tree = read_yaml(file)
    for (section, key), value in _BEFORE.items():
        if isinstance(tree.get(section, {}), dict):
            tree[section] = {key: value, **tree.get(section, {})}
    return validate(tree, str(file))


def following(config: Config, other: Config) -> Config:
    """`config`, with the value of the other wherever it leaves the choice to the program."""
    keys = (*_BEFORE, ("precision", "threads"), ("batch", "micro"))
    values = {key: getattr(getattr(other, key[0]), key[1]) for key in keys}
    left = {key: v for key, v in values.items() if getattr(getattr(config, key[0]), key[1]) in ("auto", 0)}
    return _with(config, left)


def with_sum(config: Config) -> Config:
    """`config` with a value in `parallel.sum`, which says who computes which micro-batch."""
    parallel = config.parallel
    if parallel.sum != "auto":
        return config
    other = parallel.engine != "ddp" or parallel.compress != "none" or parallel.sync_batchnorm
    return _with(config, {("parallel", "sum"): "ring" if other else "tree"})


def adds_as_tree(config: Config) -> bool:
    """Whether the number of ranks changes no bit. DeepSpeed adds in its own way, whatever a run of DDP has recorded."""
    return config.parallel.sum == "tree" and config.parallel.engine == "ddp"


def with_threads(config: Config, threads: int) -> Config:
    """`config` with the number of threads that its first start has found."""
    return _with(config, {("precision", "threads"): threads})


def with_micro(config: Config, micro: int) -> Config:
    """`config` with the micro-batch that its first start has found."""
    return _with(config, {("batch", "micro"): micro})


def with_head_start(config: Config) -> Config:
    """`config` with a value in `model.head_start`, which says what parameters the network has."""
    if config.model.head_start != "auto":
        return config
    fits = config.model.weights != "none" and not unfit_for_prior(config)
    return _with(config, {("model", "head_start"): "prior" if fits else "random"})


def resolved(config: Config, has_batch_norm: bool) -> Config:
    """`config` with values in place of `auto`. has_batch_norm: whether the backbone has any."""
    config = with_sum(with_head_start(config))
    model = config.model
    if model.batchnorm != "auto":
        return config
    small = model.weights != "none" and config.batch.micro_size < SMALL_BATCH
    fits = has_batch_norm and (small or model.lora.rank > 0)
    return _with(config, {("model", "batchnorm"): "frozen" if fits else "batch"})


def _with(config: Config, values: Mapping[tuple[str, str], Any]) -> Config:
    for (section, key), value in values.items():
        part = getattr(config, section).model_copy(update={key: value})
        config = config.model_copy(update={section: part})
    return config
