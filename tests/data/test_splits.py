"""Folds: a partition, the same every time, classes in equal shares, persons of one image together."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from masksup.config.schema import Data
from masksup.data.folds import folds_of, stratified_folds
from masksup.data.index import open_index
from masksup.data.split import Part, open_source, whole


@dataclass
class Labels:
    """As much of an index as folds depend on."""

    labels_NC: NDArray[np.int8]
    sample_image_N: NDArray[np.int32]
    copy_of_I: NDArray[np.int64] | None = None
    """Of each image, a number that it shares with its copies."""

    @property
    def file_hash_I16(self) -> NDArray[np.uint8]:
        copy_of_I = np.arange(self.sample_image_N.max() + 1) if self.copy_of_I is None else self.copy_of_I
        return np.stack([np.frombuffer(hashlib.sha256(bytes([copy])).digest()[:16], np.uint8) for copy in copy_of_I])

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(f"c{n}" for n in range(self.labels_NC.shape[1]))


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(2, 60),
    classes=st.integers(1, 6),
    folds=st.integers(2, 5),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_every_image_is_in_one_fold_and_shares_are_even(
    samples: int, classes: int, folds: int, seed: int, data: st.DataObject
) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    labels = (draw.random((samples, classes)) < draw.uniform(0.05, 0.9, classes)).astype(np.int8)
    images = np.sort(draw.integers(0, max(samples // 2, 1), samples)).astype(np.int32)
    index = Labels(labels, images)
    fold_N = folds_of(index, folds, seed)  # type: ignore[arg-type]
    assert ((fold_N >= 0) & (fold_N < folds)).all()
    assert (fold_N == folds_of(index, folds, seed)).all()  # type: ignore[arg-type]
    for image in np.unique(images):
        assert len(set(fold_N[images == image])) == 1
    assert (fold_N == stratified_folds(labels == 1, images, folds, seed)).all(), "as before there were copies"

    copy_of_I = draw.integers(0, 1 + images.max(), images.max() + 1)
    copied = Labels(labels, images, copy_of_I)
    fold_N = folds_of(copied, folds, seed)  # type: ignore[arg-type]
    for copy in np.unique(copy_of_I[images]):
        assert len(set(fold_N[copy_of_I[images] == copy])) == 1
    apart_N = folds_of(copied, folds, seed, copies_apart=True)  # type: ignore[arg-type]
    assert (apart_N == stratified_folds(labels == 1, images, folds, seed)).all()


def test_one_class_one_label_is_dealt_evenly() -> None:
    labels = np.eye(5, dtype=np.int8)[np.arange(100) % 5]
    fold_N = folds_of(Labels(labels, np.arange(100, dtype=np.int32)), 4, 0)  # type: ignore[arg-type]
    for fold in range(4):
        assert (labels[fold_N == fold].sum(0) == 5).all()


def test_real_photographs_rare_classes_reach_every_fold(tmp_path, shared_data) -> None:  # type: ignore[no-untyped-def]
    from masksup.data.prepare.coco import prepare_coco
    from masksup.data.write_index import write_index

    for content in prepare_coco(shared_data / "coco_small"):
        write_index(tmp_path / content.split, content)
    index = open_index(tmp_path / "train")
    fold_N = folds_of(index, 5, 0)
    positives_FC = np.stack([(np.asarray(index.labels_NC)[fold_N == f] == 1).sum(0) for f in range(5)])
    enough = positives_FC.sum(0) >= 10
    assert enough.sum() > 10
    assert (positives_FC[:, enough] > 0).all()  # random splits leave 4 to 5 % of these cells empty
    assert np.bincount(fold_N).max() - np.bincount(fold_N).min() <= 2
    parts = [open_source(Data(train=str(tmp_path / "train"), folds=5, fold=f), seed=0) for f in range(5)]
    held_out = np.concatenate([part.eval.samples for part in parts if part.eval is not None])
    assert sorted(held_out.tolist()) == list(range(len(index)))
    for part in parts:
        assert part.eval is not None
        assert not set(part.train.samples.tolist()) & set(part.eval.samples.tolist())


def test_a_part_numbers_and_counts_what_it_holds_without_listing_it(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masksup.data.labels._PIECE", 7)
    index = open_index(tiny_data / "train")
    rows = np.array([3, 0, 41])
    for part, samples in ((whole(index), np.arange(50)), (Part(index, np.arange(49, 7, -1)), np.arange(49, 7, -1))):
        assert len(part) == len(samples)
        assert part.numbers(rows).tolist() == samples[rows].tolist()
        assert np.array_equal(part.labels_NC, np.asarray(index.labels_NC)[samples])
        for label in (1, 0, -1):
            assert part.count(label).tolist() == (part.labels_NC == label).sum(0).tolist()
    assert whole(index).chosen is None
