"""Joins what the annotations say with what the image files are: raw samples in, index content out."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray

from masksup.base.words import counted
from masksup.data.labels import Labels, SparseLabels
from masksup.data.prepare.depths import Facts, range_of, refuse_misfits, refuse_no_numbers, said
from masksup.data.prepare.frames import frames_of, turn_boxes
from masksup.data.prepare.images import NO_SUCH_IMAGE, SIDEWAYS, ImageFacts, check_images
from masksup.data.prepare.options import storable
from masksup.data.prepare.repairs import refuse_repairable
from masksup.data.prepare.twins import within
from masksup.data.reading import PixelRange
from masksup.data.write_index import IndexContent
from masksup.errors import UserError

_IN_MEMORY = 1 << 30  # labels
_DENSE = 1 << 28  # labels
_NAMED = 10  # broken images named one by one before they are only counted


@dataclass(slots=True)
class Sample:
    """One sample as annotated, K boxes. `where` names its annotation in errors.

    labels_C: 1 present, 0 absent, -1 ignored. Kept are those that are not `rest`, which is 0, or -1 where most labels
    are ignored: of ten thousand classes few are.
    """

    id: str
    image: str  # relative to the root, already checked by `images.inside`
    labels_C: InitVar[NDArray[np.int8]]
    where: str
    rest: int = field(init=False)
    class_L: NDArray[np.int32] = field(init=False)
    value_L: NDArray[np.int8] = field(init=False)
    boxes_K4: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    box_class_K: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    box_flags_K: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    crop: tuple[float, float, float, float] | None = None  # xyxy px
    claimed_size: tuple[int, int] | None = None  # width, height the annotation states

    def __post_init__(self, labels_C: NDArray[np.int8]) -> None:
        marked_L = np.flatnonzero(labels_C)
        self.rest = 0
        if 2 * len(marked_L) > len(labels_C) and 2 * np.count_nonzero(labels_C == -1) > len(labels_C):
            self.rest, marked_L = -1, np.flatnonzero(labels_C != -1)
        self.class_L, self.value_L = marked_L.astype(np.int32), labels_C[marked_L]


@dataclass
class RawSplit:
    """One split before its images were looked at."""

    name: str
    samples: list[Sample]
    source: str  # the file the ids come from
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FileRules:
    """How the files are to be read, as options say. `exif`, `pixel_range` None: as the data say.

    verify: every image is decoded beforehand.
    """

    exif: bool | None = None
    pixel_range: PixelRange = None
    verify: bool = False


# Every kind of data set is read under these, and none needs to know of them.
_AS_THE_DATA_SAY = FileRules()
_RULES = ContextVar("file rules", default=_AS_THE_DATA_SAY)


@contextmanager
def reading_files(rules: FileRules) -> Iterator[None]:
    """What is assembled inside is read under `rules`."""
    token = _RULES.set(rules)
    try:
        yield
    finally:
        _RULES.reset(token)


def assemble(
    root: Path, name: str, splits: list[RawSplit], classes: tuple[str, ...], *, skip_broken: bool,
    exif: bool | None = None, note: str = "",
) -> list[IndexContent]:  # fmt: skip
    """Check all images below `root` (each once, however many splits name it) and build the columns.

    exif: whether EXIF orientations are followed; None: where the stated sizes say that the annotator saw them so.
    UserError for an empty split, two samples with one id and, unless `skip_broken`, a broken image.
    """
    if not storable(str(root.absolute())):
        raise UserError(f"--root {str(root)!a}: found a path that is no UTF-8, expected another name for the folder")
    for split in splits:
        if not split.samples:
            raise UserError(f"{split.source}: found no samples for split '{split.name}', expected at least one")
        _require_unique_ids(split)
    files = _RULES.get()
    facts = check_images(root, (s.image for split in splits for s in split.samples), exif=False, verify=files.verify)
    refuse_no_numbers(facts)
    pixel_range = range_of(facts, files.pixel_range)
    refuse_misfits(facts, pixel_range)
    exif, told = _upright(splits, facts, exif if files.exif is None else files.exif)
    told += said(facts, pixel_range, files.pixel_range)
    contents = []
    for split in splits:
        samples = _usable(root, split, facts, skip_broken)
        split.warnings.extend(told)
        told = []
        content = _content(samples, facts, len(classes))
        content.root, content.name, content.split, content.classes = (
            root.absolute(),
            name,
            split.name,
            classes,
        )
        content.exif, content.note, content.warnings = exif, note, (*split.warnings, *content.warnings)
        content.warnings += (*within(content),)
        content.pixel_range, content.verified = pixel_range, files.verify
        contents.append(content)
    return contents


def _upright(splits: list[RawSplit], facts: Facts, exif: bool | None) -> tuple[bool, list[str]]:
    """Whether EXIF orientations are followed, and what to say; sizes and boxes then are those of upright images."""
    samples = [sample for split in splits for sample in split.samples]
    frames = frames_of(((sample.image, sample.claimed_size) for sample in samples), facts)
    follows = frames.follow(exif)
    if follows:
        stored = set(frames.stored)
        for sample in samples:
            fact = facts[sample.image]
            if sample.image in stored and isinstance(fact, ImageFacts):
                sample.boxes_K4 = turn_boxes(sample.boxes_K4, fact.turn, fact.width, fact.height)
                sample.claimed_size = (fact.height, fact.width)
        for image, fact in facts.items():
            if isinstance(fact, ImageFacts) and fact.turn >= SIDEWAYS:
                facts[image] = replace(fact, width=fact.height, height=fact.width)
    # Without annotations of places, upright is what everybody sees, and nothing can be wrong.
    places = any(sample.claimed_size or len(sample.boxes_K4) or sample.crop for sample in samples)
    return follows, frames.said(exif) if places else []


def _require_unique_ids(split: RawSplit) -> None:
    seen: dict[str, str] = {}
    for sample in split.samples:
        if sample.id in seen:
            first = seen[sample.id]
            raise UserError(
                f"{sample.where}: found a second sample with the id '{sample.id}' "
                f"(the first: {first}), expected each id once in split '{split.name}'"
            )
        seen[sample.id] = sample.where


def _usable(root: Path, split: RawSplit, facts: dict[str, ImageFacts | str], skip_broken: bool) -> list[Sample]:
    broken: dict[str, Sample] = {}
    for sample in split.samples:
        if isinstance(facts[sample.image], str):
            broken.setdefault(sample.image, sample)
    if not broken:
        return split.samples
    missing = {image: sample.where for image, sample in broken.items() if facts[image] == NO_SUCH_IMAGE}
    refuse_repairable(root, missing, len({sample.image for sample in split.samples}))
    if not skip_broken:
        image, sample = next(iter(broken.items()))
        more = f"{len(broken) - 1} more like it; " if len(broken) > 1 else ""
        raise UserError(
            f"{root / image}: {facts[image]}, expected a complete image (named in {sample.where}); "
            f"{more}--skip-broken leaves such images out"
        )
    usable = [sample for sample in split.samples if sample.image not in broken]
    for image in list(broken)[:_NAMED]:
        split.warnings.append(f"left out {image}: {facts[image]}")
    if len(broken) > _NAMED:
        split.warnings.append(f"left out {len(broken) - _NAMED} more broken images")
    if not usable:
        raise UserError(f"{split.source}: found {counted(len(broken), 'image')} of split '{split.name}', all broken")
    return usable


def _content(samples: list[Sample], facts: dict[str, ImageFacts | str], classes: int) -> IndexContent:
    image_number: dict[str, int] = {}
    for sample in samples:
        image_number.setdefault(sample.image, len(image_number))
    good = [fact for fact in (facts[image] for image in image_number) if isinstance(fact, ImageFacts)]
    sizes_I2 = np.array([(fact.width, fact.height) for fact in good], np.int32)
    sample_image_N = np.array([image_number[sample.image] for sample in samples], np.int32)
    crops = [sample.crop for sample in samples if sample.crop is not None]
    assert len(crops) in (0, len(samples)), "either every sample is a crop or none"
    boxes = _Boxes.of(samples, sizes_I2[sample_image_N])
    return IndexContent(
        root=Path(), name="", split="", classes=(), exif=False, note="",
        image_names=list(image_number), ids=[sample.id for sample in samples],
        sizes_I2=sizes_I2, sample_image_N=sample_image_N, labels_NC=_labels(samples, classes),
        file_hash_I16=np.frombuffer(b"".join(fact.digest for fact in good), np.uint8).reshape(-1, 16),
        turned=sum(fact.turn > 1 for fact in good), crop_N4=np.array(crops, np.float32).reshape(-1, 4),
        box_start_N1=boxes.start_N1, boxes_M4=boxes.xyxy_M4, box_class_M=boxes.class_M,
        box_share_M=boxes.share_M, box_flags_M=boxes.flags_M,
        warnings=(*_size_warning(samples, sizes_I2[sample_image_N]), *boxes.warnings),
    )  # fmt: skip


def _labels(samples: list[Sample], classes: int) -> Labels:
    """An array, or above 256 million labels, where that is shorter by far, the marks of all samples."""
    many, size = sum(len(sample.class_L) for sample in samples), len(samples) * classes
    rest = samples[0].rest
    if size > _DENSE and 16 * many < size and all(sample.rest == rest for sample in samples):
        start_N1 = np.zeros(len(samples) + 1, np.int64)
        np.cumsum([len(sample.class_L) for sample in samples], out=start_N1[1:])
        class_L = np.concatenate([sample.class_L for sample in samples])
        return SparseLabels(start_N1, class_L, np.concatenate([s.value_L for s in samples]), classes, rest)
    labels_NC = _zeros(len(samples), classes)
    for row_C, sample in zip(labels_NC, samples):
        if sample.rest:
            row_C[:] = sample.rest
        row_C[sample.class_L] = sample.value_L
    return labels_NC


def _zeros(samples: int, classes: int) -> NDArray[np.int8]:
    """In memory, or beyond a gigabyte in a file without a name, whose pages the system may put back on the disk."""
    if samples * classes <= _IN_MEMORY:
        return np.zeros((samples, classes), np.int8)
    with TemporaryFile() as file:
        return np.memmap(file, np.int8, "w+", shape=(samples, classes))


def _size_warning(samples: list[Sample], sizes_N2: NDArray[np.int32]) -> list[str]:
    wrong = [
        (sample, size)
        for sample, size in zip(samples, sizes_N2.tolist())
        if sample.claimed_size is not None and list(sample.claimed_size) != size
    ]
    if not wrong:
        return []
    sample, size = wrong[0]
    stated = sample.claimed_size or (0, 0)
    return [
        f"{counted(len(wrong), 'image')} of another size than the annotation states (first: {sample.where} says "
        f"{stated[0]}x{stated[1]}, the file is {size[0]}x{size[1]}); the file's size is used"
    ]


@dataclass
class _Boxes:
    start_N1: NDArray[np.int64]
    xyxy_M4: NDArray[np.float32]
    class_M: NDArray[np.int16]
    share_M: NDArray[np.float32]
    flags_M: NDArray[np.uint8]
    warnings: list[str]

    @classmethod
    def of(cls, samples: list[Sample], sizes_N2: NDArray[np.int32]) -> "_Boxes":
        """All boxes, clipped to their image. One without area is dropped; the label it gave stays."""
        counts = [len(sample.box_class_K) for sample in samples]
        owner_M = np.repeat(np.arange(len(samples)), counts)
        given_M4 = np.concatenate([sample.boxes_K4 for sample in samples]).astype(np.float32)
        size_M2 = sizes_N2[owner_M].astype(np.float32)
        xyxy_M4 = np.clip(given_M4, 0, np.concatenate([size_M2, size_M2], axis=1))
        width_height_M2 = xyxy_M4[:, 2:] - xyxy_M4[:, :2]
        area_M = width_height_M2.prod(axis=1)
        kept_M = (width_height_M2 > 0).all(axis=1)
        # Rounding puts many boxes a fraction of a pixel outside; only more than that is worth a word.
        outside = int((np.abs(xyxy_M4 - given_M4).max(axis=1, initial=0) > 1)[kept_M].sum())
        start_N1 = np.zeros(len(samples) + 1, np.int64)
        np.cumsum(np.bincount(owner_M[kept_M], minlength=len(samples)), out=start_N1[1:])
        warnings = []
        if outside:
            warnings.append(f"clipped {counted(outside, 'box')} more than 1 px outside the image")
        if not kept_M.all():
            first = samples[int(owner_M[~kept_M][0])].where
            warnings.append(
                f"dropped {counted(int((~kept_M).sum()), 'box')} without area, labels kept (first: {first})"
            )
        share_M = (area_M / size_M2.prod(axis=1)).astype(np.float32)
        classes_M = np.concatenate([sample.box_class_K for sample in samples])
        flags_M = np.concatenate([sample.box_flags_K for sample in samples])
        return cls(
            start_N1, xyxy_M4[kept_M], classes_M[kept_M], share_M[kept_M], flags_M[kept_M], warnings
        )  # fmt: skip
