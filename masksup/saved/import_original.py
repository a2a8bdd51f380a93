"""A file of an original project -> a run folder that `eval`, `predict` and `model.weights` take."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masksup.base.files import file_sha256, partial_name, write_atomically
from masksup.config.load import dump, to_yaml, validate
from masksup.config.schema import Config
from masksup.engine.build import new_method, new_network
from masksup.errors import UserError
from masksup.models.network import Network
from masksup.models.originals.kinds import TITLES
from masksup.models.originals.original import Original
from masksup.models.originals.settings import config_tree
from masksup.models.weights import fit
from masksup.runtime.checkpoint import checkpoint_name, point, snapshot, write_checkpoint


@dataclass(frozen=True)
class Import:
    """Everything of an imported run, checked, before anything is written. `note` goes wherever a score is shown."""

    config: Config
    classes: tuple[str, ...]
    tensors: dict[str, Tensor]
    changed: tuple[str, ...]
    note: str
    facts: dict[str, Any]


def prepare_import(found: Original, settings: dict[str, Any], out: Path) -> Import:
    """The run that `found` becomes under `settings` (of `settle`), to be written to `out`.

    Raises UserError if a setting does not suit the network, or unless the file fills every parameter exactly once.
    """
    _refuse_existing(out)
    classes = settings["classes"]
    config = validate(config_tree(found, settings, str(out / "was-imported-without-data")), str(found.path))
    with torch.device("meta"):
        network = new_network(config, len(classes))
    new_method(config, network, len(classes), None)  # refuses options that do not suit the network
    resampled = fit(network.backbone.model, found.trunk, str(found.path), TITLES[found.kind], found.names)
    tensors = {f"backbone.model.{key}": value for key, value in found.trunk.items()}
    tensors |= {f"head.{key}": value for key, value in found.heads.items()}
    changed = (*found.changed, *(f"{change}, which makes it another model" for change in resampled))
    note = f"imported from {found.path.name}, {TITLES[found.kind]}"
    note += f"; assumed, not known: {'; '.join(found.assumed)}" if found.assumed else ""
    facts = {
        "file": str(found.path.absolute()), "sha256": file_sha256(found.path), "kind": found.kind,
        "assumed": list(found.assumed), "changed": list(changed), "dropped": found.dropped,
    }  # fmt: skip
    return Import(config, classes, _complete(tensors, network, found), changed, note, facts)


def write_import(run: Import, out: Path) -> None:
    """Write the run folder `out`, whole or not at all. OSError where the disk refuses."""
    _refuse_existing(out)
    name = checkpoint_name(0, 1)
    state = snapshot(
        {f"model/{key}": value for key, value in run.tensors.items()},
        {"name": name, "step": 0, "epoch": 0.0, "classes": run.classes, "note": run.note, "config": dump(run.config),
         "imported": run.facts},
    )  # fmt: skip
    partial = partial_name(out)
    try:
        partial.mkdir(parents=True)
        write_checkpoint(partial / "checkpoints", name, state)
        for link in ("latest", "best"):
            point(partial / "checkpoints", link, name)
        write_atomically(partial / "config.yaml", to_yaml(run.config))
        if out.is_dir():
            out.rmdir()  # it is empty
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_existing(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out}: exists already, expected a new name")


def _complete(tensors: dict[str, Tensor], network: Network, found: Original) -> dict[str, Tensor]:
    """`tensors` in the types of `network`, counters of batches added; UserError unless they fill it exactly."""
    target: dict[str, Tensor] = network.state_dict()
    for key, value in target.items():
        if key.endswith(".num_batches_tracked"):  # older files and InPlace-ABN have none; nothing here reads it
            tensors.setdefault(key, torch.zeros(value.shape, dtype=value.dtype))
    for key in [key for key in tensors if key not in target]:
        raise UserError(
            f"{found.path}: found {key.removeprefix('backbone.model.')}, which has no place in {found.backbone}"
        )
    for key, value in target.items():
        if key not in tensors:
            raise UserError(f"{found.path}: nothing in it fills {key} of {found.summary}")
        if tensors[key].shape != value.shape:
            shapes = f"{list(tensors[key].shape)}, expected {list(value.shape)}"
            raise UserError(f"{found.path}: its tensor for {key} has the shape {shapes} ({found.backbone})")
        if value.is_floating_point() and not (tensors[key].is_floating_point() and tensors[key].isfinite().all()):
            what = "values that are not finite" if tensors[key].is_floating_point() else str(tensors[key].dtype)
            raise UserError(
                f"{found.path}: found {what} in its tensor for {key}, expected finite floating point numbers"
            )
        if key.endswith(".running_var") and (tensors[key] < 0).any():
            raise UserError(f"{found.path}: found a negative number in its tensor for {key}, expected variances")
    return {key: tensors[key].to(value.dtype) for key, value in target.items()}
