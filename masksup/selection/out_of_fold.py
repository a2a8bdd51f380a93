"""The outputs of a configuration for images that it did not learn from: each fold of `data.train` in turn is held out.

Every fold is an ordinary run by the code of `masksup train`; no other index is opened. The last weights are taken, not
the best epoch, as the held-out images may not choose it. What is done is kept, so that it is done once.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import written_whole
from masksup.base.log import start_logging
from masksup.config.load import load_config, to_yaml
from masksup.config.schema import Config
from masksup.data.folds import first_copies
from masksup.data.masks import FixedMasks, Level, evaluation_masks
from masksup.data.split import Part, open_source, whole
from masksup.engine.features import FeatureFolder
from masksup.engine.precision import choose_device, choose_dtype, placed, set_numerics
from masksup.evaluation.blocks import count_blocks, feature_blocks
from masksup.evaluation.collect import Outputs
from masksup.evaluation.forward import Predictor, run_model
from masksup.evaluation.kept import Stopped
from masksup.metrics.pairs import Labels
from masksup.saved.open import Trained, open_trained
from masksup.saved.outputs import predict_alone
from masksup.selection import FOLDS
from masksup.training.train import train

HELD_OUT = "held_out"
"""The folder of the outputs of each fold."""


@dataclass(frozen=True)
class HeldOut:
    """N samples in the order of their index, each with the logits of the run that had not seen it."""

    samples_N: NDArray[np.int64]
    logits_NC: NDArray[np.float32]
    labels_NC: Labels
    """1 present, 0 absent, -1 ignored."""
    image_N: NDArray[np.int64]
    """Of which image each sample is; copies of a file are one."""
    masked_NC: NDArray[np.float32] | None = None
    """Logits with a part of each image hidden, where that was asked for."""


def fold_config(path: Path, overrides: Sequence[str], folds: int, fold: int, features: Path) -> Config:
    """The run of the file `path` that holds out `fold`: no other index is opened, and it is scored once, at its end."""
    ours = ["data.eval=null", "data.test=null", f"data.folds={folds}", f"data.fold={fold}", "eval.bootstrap=0"]
    ours += ["log.images=0", "log.pr_curves=false", "log.plots=false"]
    config, _ = load_config(path, [*overrides, *ours])
    ours.append(f"eval.every_epochs={config.epochs}")
    if config.model.frozen and config.model.features is None:
        ours.append(f"model.features={json.dumps(str(features))}")
    return load_config(path, [*overrides, *ours])[0]


def held_out_fold(config: Config, out: Path, keep_run: bool = False, masked: Level | None = None) -> HeldOut:
    """The outputs for the held-out fold of `config`, from `out` if they are there.

    The files in `out` are named by the settings and the data, so that none is taken for another run's. A signal raises
    Stopped; the same call goes on then. keep_run: leave the run folder, which `run_of` names. masked: also the outputs
    under the masks of `masksup eval --masked`.
    """
    file, run_dir = held_out_file(config, out, masked), run_of(config, out)
    if not file.exists() or (keep_run and not run_dir.exists()):
        source = open_source(config.data, config.seed)
        assert source.eval is not None
        train_aside(config, run_dir)
        _write(file, open_trained(run_dir), source.eval, masked)
    if not keep_run:
        shutil.rmtree(run_dir, ignore_errors=True)  # a checkpoint a fold would fill the disk
    with np.load(file) as arrays:
        return HeldOut(
            arrays["samples"], arrays["logits"], arrays["labels"], arrays["images"],
            arrays["masked"] if masked else None,
        )  # fmt: skip


def held_out_file(config: Config, out: Path, masked: Level | None = None) -> Path:
    """Where the outputs of one fold lie."""
    return out / HELD_OUT / f"{_name(config)}{f'-{masked}' if masked else ''}.npz"


def run_of(config: Config, out: Path) -> Path:
    """Where the run of one fold lies."""
    return out / FOLDS / _name(config)


def pooled(folds: Sequence[HeldOut]) -> HeldOut:
    """Those of all folds together, in the order of the index."""
    order_N = np.argsort(np.concatenate([fold.samples_N for fold in folds]))
    samples_N, logits_NC, labels_NC, image_N = (
        np.concatenate(parts)[order_N]
        for parts in zip(*((fold.samples_N, fold.logits_NC, fold.labels_NC, fold.image_N) for fold in folds))
    )
    masked = [fold.masked_NC for fold in folds if fold.masked_NC is not None]
    return HeldOut(samples_N, logits_NC, labels_NC, image_N, np.concatenate(masked)[order_N] if masked else None)


def _name(config: Config) -> str:
    """By the settings and the data of a run."""
    facts = to_yaml(config) + json.dumps(open_source(config.data, config.seed).hashes)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def train_aside(config: Config, run_dir: Path) -> None:
    """As `masksup train`, of a run that is not the user's: its lines go to a file beside its folder."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with run_dir.with_suffix(".log").open("a", encoding="utf-8") as lines, redirect_stdout(lines):
        status = train(config, run_dir)
    start_logging()
    if status != 0:
        raise Stopped
    for events in run_dir.glob("events.out.tfevents.*"):  # TensorBoard would list it among the user's runs
        events.unlink()


def _write(file: Path, trained: Trained, part: Part, masked: Level | None) -> None:
    """The outputs of a run for the images that it had not seen."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image_N = first_copies(part.index)[part.samples]
    found: dict[str, Any] = {"samples": part.samples, "labels": part.labels_NC, "images": image_N}
    found["logits"] = _predict(trained, part).logits_NC
    if masked is not None:
        found["masked"] = predict_alone(trained, part, _masks(masked, trained, part)).logits_NC
    with written_whole(file, ".npz") as partial:
        np.savez(partial, **found)


def _masks(level: Level, trained: Trained, part: Part) -> FixedMasks:
    return evaluation_masks(level, trained.config.model.size, part.ids)


def _predict(trained: Trained, part: Part) -> Outputs:
    """Outputs for `part`; a frozen backbone's features are read, not computed again."""
    config = trained.config
    set_numerics(config.precision)
    if not config.model.frozen:
        return predict_alone(trained, part)
    device = choose_device(config.precision)
    dtype = choose_dtype(config.precision, device)
    placed(trained.method, device, config.precision)
    assert config.model.features is not None
    folder = FeatureFolder(Path(config.model.features), trained.network, config, device, dtype)
    features = folder.features(whole(part.index), False, print)
    blocks = feature_blocks(features, part, config, range(count_blocks(part, config)))
    return run_model(Predictor(trained.network.head, config, device, dtype), blocks)
