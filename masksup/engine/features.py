"""Features of a frozen backbone: computed once, kept as memory-mapped files, and dealt out like images.

Beside each file stands its sha256, in the format of sha256sum. Rank 0 compares the two at every start, before any other
rank reads; features that are not whole are computed again.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masksup.base.files import (
    file_sha256,
    json_sha256,
    naming,
    partial_name,
    read_regular,
    refuse_special,
    write_atomically,
)
from masksup.base.random import uniform
from masksup.base.words import counted
from masksup.config.schema import Config
from masksup.data.dataset import EvalDataset
from masksup.data.loader import eval_loader, workers_of
from masksup.data.sampler import Plan
from masksup.data.split import Part, eval_dataset
from masksup.engine.precision import autocast, deterministic_forms, placed
from masksup.engine.state import hash_of
from masksup.errors import UserError
from masksup.models.network import Network

Features = NDArray[np.float32]


@dataclass(frozen=True)
class FrozenFeatures:
    """Feature maps of all samples of an index: as they are, and flipped where training flips; N x D x H x W."""

    plain: Features
    flipped: Features | None


@dataclass(frozen=True)
class FeatureFolder:
    """A folder that keeps the features of a frozen backbone, and what they depend on."""

    path: Path
    network: Network
    config: Config
    device: torch.device
    dtype: torch.dtype

    def room(self, parts: Iterable[tuple[Part, bool]]) -> str | None:
        """What the features that are not there yet will take, as a line for the log; None if all of them are.

        parts: each with whether the features of its mirror images are kept, too. UserError for more than
        `model.features_limit_gb`, and for more than the disk has room for.
        """
        missing = {
            path: (view, len(part.index))
            for part, flip in parts
            for view, path in self._files(part, flip).items()
            if not path.exists()
        }
        if not missing:
            return None
        images, tokens, width = (
            sum(n for _, n in missing.values()),
            self.network.backbone.grid**2,
            self.network.backbone.width,
        )
        needed = images * tokens * width * np.dtype(np.float32).itemsize
        mirrored = " and mirror images" if any(view == "flipped" for view, _ in missing.values()) else ""
        shown = f"{counted(images, 'image')}{mirrored} x {tokens:,} tokens x {width:,} = {_size(needed)}"
        limit = self.config.model.features_limit_gb
        if needed > limit * 1e9:
            raise UserError(
                f"model.features_limit_gb: the features would take {shown}, expected at most {limit:g} GB; choose a "
                "smaller model.size or augment.flip=0 (no mirror images), raise the limit, or set model.frozen=false, "
                "which keeps none"
            )
        disk = next(place for place in (self.path.absolute(), *self.path.absolute().parents) if place.exists())
        free = shutil.disk_usage(disk).free
        if needed > free:
            raise UserError(
                f"model.features: the features would take {shown}, but {disk} has {_size(free)} free; make room, name "
                "a folder on another disk, or choose a smaller model.size or augment.flip=0 (no mirror images)"
            )
        return f"features: {shown}, kept in {self.path}"

    def features(self, part: Part, flip: bool, said: Callable[[str], None], check: bool = True) -> FrozenFeatures:
        """The features of the whole index of `part`, read if they are there already.

        flip: those of the mirror images, too. check: compare what is there with its hash, which reads all of it;
        `said` hears what is damaged.
        """
        training = self.network.training
        self.network.eval()
        views = {}
        for view, path in self._files(part, flip).items():
            problem = _problem(path, len(part.index), check)
            if problem is not None:
                if path.exists():
                    said(f"{path}: {problem}; these features are computed again")
                said(
                    f"computing the {view} features of {part.index.name} {part.index.split} "
                    f"({counted(len(part.index), 'sample')})"
                )
                self._compute(part, path, view == "flipped")
            views[view] = np.lib.format.open_memmap(path, mode="r")
        self.network.train(training)
        return FrozenFeatures(views["plain"], views.get("flipped"))

    def _files(self, part: Part, flip: bool) -> dict[str, Path]:
        """Where the features of a part lie: of its images and, with `flip`, of their mirror images."""
        weights = hash_of(self.network.backbone)
        views = ("plain", "flipped") if flip else ("plain",)
        return {view: self.path / f"{self._key(part, weights, view)}.npy" for view in views}

    def _key(self, part: Part, weights: str, view: str) -> str:
        """Names what the features depend on, so that a kept file is never used for something else."""
        config = self.config
        network = {"backbone", "size", "mean", "std", "backbone_options", "last_stage_stride"}
        model = config.model.model_dump(mode="json", include=network)
        augment = config.augment.model_dump(mode="json", include={"interpolation", "eval_resize", "crop_share", "fill"})
        facts = [part.index.hash, weights, view, str(self.dtype), self.device.type, config.eval.batch, model, augment]
        facts += [name for name in ("compile", "tf32") if getattr(config.precision, name)]
        facts += [f"octaves {config.model.octaves}"] if config.model.octaves > 1 else []  # else as it ever was
        return f"{part.index.name}-{part.index.split}-{view}-{json_sha256(facts)[:16]}"

    @torch.no_grad()
    def _compute(self, part: Part, path: Path, flip: bool) -> None:
        config = self.config
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_name(path, ".npy")
        out: np.memmap[Any, np.dtype[np.float32]] | None = None
        done = 0
        try:
            workers, kind = workers_of(config.data), config.data.loader
            for block in eval_loader(images_of(part, config), config.eval.batch, workers, kind=kind):
                images = placed(block["image"], self.device, config.precision)
                with autocast(self.device, self.dtype), deterministic_forms():
                    x_BDHW = self.network.features(images.flip(-1) if flip else images)
                maps = x_BDHW.float().cpu().numpy()[block["valid"].numpy()]
                if out is None:
                    shape = (len(part.index), *maps.shape[1:])
                    with naming(path):
                        out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
                        _reserve(partial)
                out[done : done + len(maps)] = maps
                done += len(maps)
            assert out is not None
            out.flush()
            write_atomically(_sums(path), _sum_line(path, partial))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _problem(path: Path, samples: int, check: bool) -> str | None:
    """Why the features in a file cannot be used; None if they can. Files of older versions have no hash beside them."""
    try:
        refuse_special(path)
        maps = np.lib.format.open_memmap(path, mode="r")
    except (UserError, PermissionError):  # there, and perhaps whole
        raise
    except Exception as error:  # numpy evaluates the head of the file, which may fail in any way
        return f"cannot be read ({error})"
    if maps.ndim != 4 or len(maps) != samples or maps.dtype != np.float32 or not maps.flags.c_contiguous:
        return f"found {maps.dtype} {list(maps.shape)}, expected float32 maps of {counted(samples, 'sample')}"
    sums = _sums(path)
    if check and sums.exists() and read_regular(sums).decode("ascii", "replace") != _sum_line(path):
        return f"its sha256 is not the one in {sums.name}"
    return None


def _sums(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sum_line(path: Path, content: Path | None = None) -> str:
    """What stands in the file of the hash of `path`; `content`: where its bytes are now."""
    return f"{file_sha256(content or path)}  {path.name}\n"


def feature_batches(
    features: FrozenFeatures, part: Part, plan: Plan, start_step: int, config: Config, rank: int = 0, world: int = 1
) -> Iterator[list[dict[str, Tensor]]]:
    """As `train_loader` gives them, the micro-batches of this rank, with `features` in the place of `image`."""
    labels_NC = targets_of(part, config)
    for step in range(start_step, plan.total_steps):
        whole = plan.micro_batches(step)
        mine = [whole[index] for index in plan.share(step, rank, world).indices]
        yield [_batch(features, labels_NC, part, plan, positions, config) for positions in mine]


def targets_of(part: Part, config: Config) -> NDArray[np.int8]:
    """The labels of the whole index of `part` as the loss takes them: ignored pairs -1, or what `data.ignored` says."""
    labels_NC = np.array(part.index.labels_NC)
    if config.data.ignored != "ignore":
        labels_NC[labels_NC == -1] = int(config.data.ignored == "positive")
    return labels_NC


def _batch(
    features: FrozenFeatures, labels_NC: NDArray[np.int8], part: Part, plan: Plan,
    positions: NDArray[np.int64], config: Config,
) -> dict[str, Tensor]:  # fmt: skip
    samples = part.numbers(plan.samples_at(positions))
    turned = turned_at(positions, config)
    maps = np.empty((len(samples), *features.plain.shape[1:]), np.float32)
    maps[~turned] = features.plain[samples[~turned]]
    if features.flipped is not None:
        maps[turned] = features.flipped[samples[turned]]
    return {
        "features": torch.from_numpy(maps),
        "target": torch.from_numpy(labels_NC[samples]),
        "sample": torch.from_numpy(samples),
        "position": torch.from_numpy(positions),
    }


def turned_at(positions: NDArray[np.int64], config: Config) -> NDArray[np.bool_]:
    """Which positions of the training look at the mirror image."""
    turned: NDArray[np.bool_] = uniform(positions, config.seed, "flip") < config.augment.flip
    return turned


def images_of(part: Part, config: Config) -> EvalDataset:
    """The images that features are computed of: all of the index of `part`, by number."""
    return eval_dataset(config, Part(part.index))


def _reserve(path: Path) -> None:
    """Take the space now: a full disk is an OSError here, but kills the process when it is written to as memory."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
