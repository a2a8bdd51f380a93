"""What a run learns from and what it is scored on: indexes, opened, split and checked against each other."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masksup.base.words import counted
from masksup.config.schema import Config, Data
from masksup.data.dataset import EvalDataset, TrainDataset
from masksup.data.folds import folds_of
from masksup.data.index import Index, open_index
from masksup.data.labels import Labels, SparseLabels, counts_of
from masksup.data.reading import PixelRange, range_text
from masksup.data.sampler import Plan, class_balance
from masksup.data.transforms import eval_transform, train_transform
from masksup.errors import UserError


@dataclass(frozen=True)
class Part:
    """Some samples of an index, by number; `chosen` None is all of them, which takes no memory."""

    index: Index
    chosen: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.index if self.chosen is None else self.chosen)

    @property
    def samples(self) -> NDArray[np.int64]:
        """The numbers of all samples, made anew; where a few of them do, `numbers` gives these."""
        return np.arange(len(self.index), dtype=np.int64) if self.chosen is None else self.chosen

    def numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers in the index of some rows of this part."""
        return rows if self.chosen is None else self.chosen[rows]

    @property
    def ids(self) -> list[str]:
        """The ids of all samples, made anew."""
        return [self.index.id(int(sample)) for sample in self.samples]

    @property
    def labels(self) -> Labels:
        """The labels as the index keeps them: of very many classes, in little memory."""
        labels = self.index.labels_NC
        if self.chosen is None:
            return labels
        return labels.take(self.chosen) if isinstance(labels, SparseLabels) else labels[self.chosen]

    @property
    def labels_NC(self) -> NDArray[np.int8]:
        return np.asarray(self.labels)

    def count(self, label: int) -> NDArray[np.int64]:
        """How many samples of each class carry `label`: int64 C."""
        return counts_of(self.index.labels_NC, label, self.chosen)

    @property
    def title(self) -> str:
        """For people, e.g. "voc2007 test"; says when the data set is synthetic."""
        name = f"{self.index.name} {self.index.split}"
        name += "" if len(self) == len(self.index) else f" ({len(self)} of {len(self.index)})"
        return f"{name}, {self.index.note}" if self.index.note else name


@dataclass(frozen=True)
class Source:
    """The parts of one run."""

    train: Part
    eval: Part | None
    test: Part | None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.index.classes

    @property
    def hashes(self) -> dict[str, str]:
        """The hash of each index, which a checkpoint keeps: going on with other data is refused."""
        parts = {"train": self.train, "eval": self.eval, "test": self.test}
        return {name: part.index.hash for name, part in parts.items() if part is not None}


def whole(index: Index) -> Part:
    return Part(index)


def open_source(data: Data, seed: int) -> Source:
    """Open what `data` names. UserError if classes differ or images of one part are in another."""
    train = whole(open_index(Path(data.train)))
    scored = whole(open_index(Path(data.eval))) if data.eval else None
    test = whole(open_index(Path(data.test))) if data.test else None
    if data.folds:
        if data.folds > len(train):
            raise UserError(
                f"data.folds: found {data.folds}, expected at most the {counted(len(train), 'sample')} of data.train"
            )
        fold_N = folds_of(train.index, data.folds, seed, copies_apart=data.allow_leak)
        scored = Part(train.index, np.flatnonzero(fold_N == data.fold))
        train = Part(train.index, np.flatnonzero(fold_N != data.fold))
    for key, part in (("data.eval", scored), ("data.test", test)):
        if part is not None:
            refuse_other_classes(key, part.index, train.index.classes, f"in {train.index.folder}")
            refuse_other_range(key, part.index, train.index.pixel_range, f"in {train.index.folder}")
            if not data.allow_leak:
                _refuse_leak(key, part, train)
    return Source(train, scored, test)


def make_plan(config: Config, train: Part) -> Plan:
    """The order of the run over the samples of `train` (numbered from 0 within the part).

    A head that is solved looks at all samples in its only step.
    """
    cumulative = class_balance(train.labels) if config.data.balance == "class" else None
    if config.optim.name == "lbfgs":
        everything = max(len(train), 1)
        return Plan(len(train), everything, everything, 1.0, "partial", config.seed, cumulative=cumulative)
    return Plan(
        samples=len(train), global_batch=config.batch.global_, micro_batch=config.batch.micro_size,
        epochs=config.epochs, last_batch=config.data.last_batch, seed=config.seed, cumulative=cumulative,
        blocks=config.parallel.engine == "ddp" and config.parallel.sum != "ring",
    )  # fmt: skip


def train_dataset(config: Config, train: Part, plan: Plan) -> TrainDataset:
    """What stands at each position of `plan`, augmented."""
    transform = train_transform(config.augment, config.train_size)
    data = config.data
    return TrainDataset(train.index, transform, plan, data.ignored, data.max_pixels, data.broken_budget, train.chosen)


def eval_dataset(config: Config, part: Part) -> EvalDataset:
    """The samples of a part in order, one view of each, as a network of `config` sees them when it is scored."""
    transform = eval_transform(config.augment, config.model.size)
    return EvalDataset(part.index, transform, config.data.max_pixels, config.data.broken_budget, part.chosen)


def refuse_other_classes(key: str, found: Index, classes: tuple[str, ...], whose: str) -> None:
    """UserError unless an index has exactly `classes`, which are those of `whose`."""
    if found.classes == classes:
        return
    differ = [name for name in found.classes if name not in classes]
    differ += [name for name in classes if name not in found.classes]
    what = f"found other classes ({', '.join(differ[:5])})" if differ else "found the classes in another order"
    raise UserError(f"{key}: {found.folder}: {what} than {whose}")


def refuse_other_range(key: str, found: Index, pixel_range: PixelRange, whose: str) -> None:
    """UserError where the pictures of an index are read as brighter or darker ones than `whose`, which have
    `pixel_range`; no score would tell."""
    if None not in (found.pixel_range, pixel_range) and found.pixel_range != pixel_range:
        wanted = range_text(pixel_range)
        raise UserError(
            f"{key}: {found.folder}: found the pixel range {range_text(found.pixel_range)}, expected {wanted} as "
            f"{whose} (masksup prepare --pixel-range={wanted})"
        )


def samples_in_both(part: Part, other: Part) -> NDArray[np.int64]:
    """The rows of `part` whose images are byte-equal to one of `other`."""
    return np.flatnonzero(np.isin(_file_hashes(part), _file_hashes(other)))


def _refuse_leak(key: str, scored: Part, train: Part) -> None:
    leaked = samples_in_both(scored, train)
    if len(leaked):
        example = scored.index.where(int(scored.numbers(leaked[:1])[0]))
        raise UserError(
            f"{key}: {len(leaked)} of {counted(len(scored), 'sample')} lie in images that data.train holds too "
            f"(such as {example}), so their score would mean nothing; set data.allow_leak=true to go on"
        )


def _file_hashes(part: Part) -> NDArray[np.void]:
    rows = np.ascontiguousarray(
        np.asarray(part.index.file_hash_I16)[np.asarray(part.index.sample_image_N)[part.samples]]
    )
    return rows.view("V16").reshape(len(rows))
