"""Features of a frozen backbone: computed once, and kept as memory-mapped files.

All ranks compute them, each a part of the blocks that one rank would compute, so that they are the same to the bit.
Beside each file stands its sha256, in the format of sha256sum. Rank 0 compares the two at every start, before any other
rank reads; features that are not whole are computed again.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from masksup.base.files import (
    file_sha256,
    json_sha256,
    naming,
    partial_name,
    read_regular,
    refuse_special,
    to_disk,
    write_atomically,
)
from masksup.base.place import ALONE, Place
from masksup.base.words import counted
from masksup.config.schema import Config, Parallel
from masksup.data.dataset import EvalDataset
from masksup.data.loader import eval_loader, workers_of
from masksup.data.split import Part, eval_dataset
from masksup.engine.precision import autocast, deterministic_forms, placed
from masksup.engine.state import hash_of
from masksup.errors import UserError
from masksup.models.network import Network
from masksup.runtime.ranks import Group

Features = NDArray[np.floating]
_ALONE = Group(ALONE, Parallel())


@dataclass(frozen=True)
class FrozenFeatures:
    """Feature maps of all samples of an index: as they are, and flipped where training flips; N x D x H x W.

    In the type that `model.features_dtype` names.
    """

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
        backbone, images = self.network.backbone, sum(n for _, n in missing.values())
        tokens, width = backbone.grid**2, backbone.width
        needed = images * tokens * width * self._stored.itemsize
        mirrored = " and mirror images" if any(view == "flipped" for view, _ in missing.values()) else ""
        shown = f"{counted(images, 'image')}{mirrored} x {tokens:,} tokens x {width:,} = {_size(needed)}"
        limit = self.config.model.features_limit_gb
        if needed > limit * 1e9:
            raise UserError(
                f"model.features_limit_gb: the features would take {shown}, expected at most {limit:g} GB; choose a "
                f"{self._smaller}, raise the limit, or set model.frozen=false, which keeps none"
            )
        disk = next(place for place in (self.path.absolute(), *self.path.absolute().parents) if place.exists())
        if not disk.is_dir():
            raise UserError(f"model.features: {disk} is a file, expected a folder to keep features in, or none")
        free = shutil.disk_usage(disk).free
        if needed > free:
            raise UserError(
                f"model.features: the features would take {shown}, but {disk} has {_size(free)} free; make room, name "
                f"a folder on another disk, or choose a {self._smaller}"
            )
        return f"features: {shown}, kept in {self.path}"

    def features(self, part: Part, flip: bool, said: Callable[[str], None], group: Group = _ALONE) -> FrozenFeatures:
        """The features of the whole index of `part`, read if they are there already. Collective.

        flip: those of the mirror images, too. `said` hears on rank 0 what is damaged, and what is computed.
        """
        files = self._files(part, flip)
        missing: list[str] = []
        with group.together():
            if group.first:
                missing = self._missing(files, part, said)
        for view in group.broadcast(missing):
            if group.first:
                said(
                    f"computing the {view} features of {part.index.name} {part.index.split} "
                    f"({counted(len(part.index), 'sample')})"
                )
            self._compute(part, files[view], view == "flipped", group)
        views = {view: np.lib.format.open_memmap(path, mode="r") for view, path in files.items()}
        return FrozenFeatures(views["plain"], views.get("flipped"))

    @property
    def _stored(self) -> np.dtype[np.floating]:
        return np.dtype(self.config.model.features_dtype)

    @property
    def _smaller(self) -> str:
        """What makes features take less."""
        halved = "" if self._stored.itemsize == 2 else "model.features_dtype=float16, "
        return f"smaller model.size, {halved}or augment.flip=0 (no mirror images)"

    @cached_property
    def _weights(self) -> str:
        return hash_of(self.network.backbone)

    def _missing(self, files: dict[str, Path], part: Part, said: Callable[[str], None]) -> list[str]:
        """The views of which no whole file is there."""
        missing = []
        for view, path in files.items():
            problem = _problem(path, len(part.index), self._stored)
            if problem is not None:
                if path.exists():
                    said(f"{path}: {problem}; these features are computed again")
                missing.append(view)
        return missing

    def _files(self, part: Part, flip: bool) -> dict[str, Path]:
        """Where the features of a part lie: of its images and, with `flip`, of their mirror images."""
        views = ("plain", "flipped") if flip else ("plain",)
        return {view: self.path / f"{self._key(part, view)}.npy" for view in views}

    def _key(self, part: Part, view: str) -> str:
        """Names what the features depend on, so that a kept file is never used for something else."""
        config = self.config
        network = {"backbone", "size", "mean", "std", "backbone_options", "last_stage_stride"}
        model = config.model.model_dump(mode="json", include=network)
        augment = config.augment.model_dump(mode="json", include={"interpolation", "eval_resize", "crop_share", "fill"})
        facts = [
            part.index.hash, self._weights, view, str(self.dtype), self.device.type, config.eval.batch, model, augment,
        ]  # fmt: skip
        facts += [name for name in ("compile", "tf32") if getattr(config.precision, name)]
        # Else as it ever was.
        facts += [f"octaves {config.model.octaves}"] if config.model.octaves > 1 else []
        facts += [self._stored.name] if self._stored != np.float32 else []
        return f"{part.index.name}-{part.index.split}-{view}-{json_sha256(facts)[:16]}"

    def _compute(self, part: Part, path: Path, flip: bool, group: Group) -> None:
        """Each rank writes the rows of its blocks into one file, to which rank 0 gives its name at the end."""
        partial: Path | None = None
        try:
            if group.first:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = partial_name(path, ".npy")
                backbone = self.network.backbone
                shape = (len(part.index), backbone.width, backbone.grid, backbone.grid)
                with naming(path):
                    np.lib.format.open_memmap(partial, mode="w+", dtype=self._stored, shape=shape)
                    _reserve(partial)
            into = group.broadcast(partial)
            with group.together():
                self._write_rows(part, path, into, flip, group.place)
            if partial is not None:
                write_atomically(_sums(path), _sum_line(path, partial))
                partial.replace(path)
            group.broadcast(None)  # the others read it then
        finally:
            if partial is not None:
                partial.unlink(missing_ok=True)

    @torch.no_grad()
    def _write_rows(self, part: Part, path: Path, into: Path, flip: bool, place: Place) -> None:
        """The share of one rank. By `write`, not as memory: hosts that write to one page of a file would undo each
        other's rows on some file systems."""
        config, batch = self.config, self.config.eval.batch
        blocks = -(-len(part.index) // batch)
        share = range(blocks * place.rank // place.world, blocks * (place.rank + 1) // place.world)
        maps = np.lib.format.open_memmap(into, mode="r")
        row, start = maps[0].nbytes, maps.offset
        training = self.network.training
        self.network.eval()
        workers, kind = workers_of(config.data), config.data.loader
        with naming(path), into.open("r+b") as file:
            file.seek(start + share.start * batch * row)
            for block in eval_loader(
                images_of(part, config), batch, workers, numbers=share, kind=kind,
                pin_memory=self.device.type == "cuda",
            ):  # fmt: skip
                images = placed(block["image"], self.device, config.precision)
                with autocast(self.device, self.dtype), deterministic_forms():
                    x_BDHW = self.network.features(images.flip(-1) if flip else images)
                found = x_BDHW.float().cpu().numpy()[block["valid"].numpy()]
                file.write(self._in_type(found).tobytes())
            to_disk(file)
        self.network.train(training)

    def _in_type(self, maps: Features) -> Features:
        """In the type that is kept. UserError for a number that has no place in it."""
        with np.errstate(over="ignore"):
            kept = maps.astype(self._stored, copy=False)
        if not np.isfinite(kept).all() and np.isfinite(maps).all():
            raise UserError(
                f"model.features_dtype: found a feature of {np.abs(maps).max():g}, expected at most "
                f"{np.finfo(self._stored).max:g} in {self._stored.name}; set model.features_dtype=float32"
            )
        return kept


def _size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _problem(path: Path, samples: int, dtype: np.dtype[np.floating]) -> str | None:
    """Why the features in a file cannot be used; None if they can. Files of older versions have no hash beside them."""
    try:
        refuse_special(path)
        maps = np.lib.format.open_memmap(path, mode="r")
    except (UserError, PermissionError):  # there, and perhaps whole
        raise
    except Exception as error:  # numpy evaluates the head of the file, which may fail in any way
        return f"cannot be read ({error})"
    if maps.ndim != 4 or len(maps) != samples or maps.dtype != dtype or not maps.flags.c_contiguous:
        return f"found {maps.dtype} {list(maps.shape)}, expected {dtype} maps of {counted(samples, 'sample')}"
    sums = _sums(path)
    if sums.exists() and read_regular(sums).decode("ascii", "replace") != _sum_line(path):
        return f"its sha256 is not the one in {sums.name}"
    return None


def _sums(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sum_line(path: Path, content: Path | None = None) -> str:
    """What stands in the file of the hash of `path`; `content`: where its bytes are now."""
    return f"{file_sha256(content or path)}  {path.name}\n"


def images_of(part: Part, config: Config) -> EvalDataset:
    """The images that features are computed of: all of the index of `part`, by number."""
    return eval_dataset(config, Part(part.index))


def _reserve(path: Path) -> None:
    """Take the space now: a full disk is an OSError here, but kills the process when it is written to as memory."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
