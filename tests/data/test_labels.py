"""Sparse labels read as the dense array that they stand for, in memory and from an index on the disk."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masksup.data.index import open_index
from masksup.data.labels import SparseLabels, counts_of, present
from masksup.data.prepare.assemble import RawSplit, Sample, assemble
from masksup.data.sampler import class_balance
from masksup.data.split import Part
from masksup.data.write_index import write_index
from masksup.data.write_shards import pack_index
from masksup.errors import UserError

SAMPLES, CLASSES = 40, 60


def drawn(rest: int) -> np.ndarray:
    """A few labels of each sample, none of one; the others are `rest`."""
    rng = np.random.default_rng(3)
    labels_NC = np.full((SAMPLES, CLASSES), rest, np.int8)
    for row_C in labels_NC[1:]:
        row_C[rng.choice(CLASSES, 2, replace=False)] = rng.choice([1, 1, 0, -1], 2)
    return labels_NC


def written(folder: Path, labels_NC: np.ndarray) -> Any:
    (folder / "root").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "root/a.png")
    samples = [Sample(str(n), "a.png", row_C, f"row {n}") for n, row_C in enumerate(labels_NC)]
    names = tuple(f"c{c}" for c in range(CLASSES))
    [content] = assemble(folder / "root", "x", [RawSplit("train", samples, "drawn")], names, skip_broken=False)
    return write_index(folder / "train", content)


@pytest.fixture(params=[0, -1])
def labels_NC(request: pytest.FixtureRequest) -> np.ndarray:
    return drawn(request.param)


@pytest.fixture
def sparse(labels_NC: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SparseLabels:
    """As prepared, written and opened again."""
    monkeypatch.setattr("masksup.data.prepare.assemble._DENSE", 100)
    written(tmp_path, labels_NC)
    found = open_index(tmp_path / "train").labels_NC
    assert isinstance(found, SparseLabels)
    return found


def test_rows_are_those_of_the_array(sparse: SparseLabels, labels_NC: np.ndarray) -> None:
    assert (sparse.shape, sparse.size, len(sparse)) == (labels_NC.shape, labels_NC.size, SAMPLES)
    assert np.array_equal(np.asarray(sparse), labels_NC)
    mask_N = np.arange(SAMPLES) % 3 == 0
    for rows in (0, 7, -1, np.int64(5), slice(3, 11), slice(None, None, 7), np.array([9, 2, 2]), mask_N, [], [1]):
        assert np.array_equal(sparse[rows], labels_NC[rows]), rows
        assert sparse[rows].dtype == np.int8
    assert sparse[3, 5] == labels_NC[3, 5]
    assert np.array_equal(np.stack(list(sparse)), labels_NC)
    with pytest.raises(IndexError):
        sparse[SAMPLES]


def test_parts_counts_and_weights_are_those_of_the_array(sparse: SparseLabels, labels_NC: np.ndarray) -> None:
    chosen = np.array([8, 0, 3, 39])
    assert np.array_equal(np.asarray(sparse.take(chosen)), labels_NC[chosen])
    for label in (1, 0, -1):
        assert counts_of(sparse, label).tolist() == (labels_NC == label).sum(0).tolist()
        assert counts_of(sparse, label, chosen).tolist() == (labels_NC[chosen] == label).sum(0).tolist()
    for found, expected in zip(present(sparse), np.nonzero(labels_NC == 1)):
        assert np.array_equal(found, expected)
    assert class_balance(sparse) == pytest.approx(class_balance(labels_NC), rel=1e-12)


def test_present_in_pieces_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    labels_NC = drawn(0)
    monkeypatch.setattr("masksup.data.labels._PIECE", 7 * CLASSES)
    assert np.array_equal(np.stack(present(labels_NC)), np.stack(np.nonzero(labels_NC == 1)))


def test_an_index_of_sparse_labels_is_small_checked_and_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masksup.data.prepare.assemble._DENSE", 100)
    labels_NC = drawn(0)
    index = written(tmp_path, labels_NC)
    header = json.loads((tmp_path / "train/index.json").read_text())
    assert (header["version"], "labels_NC" in header["columns"]) == (2, False)
    assert not (tmp_path / "train/labels_NC.npy").exists()
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(index)).labels_NC), labels_NC)
    part = Part(index, np.array([4, 1]))
    assert np.array_equal(part.labels_NC, labels_NC[[4, 1]])
    packed = pack_index(index, tmp_path / "packed", 1 << 20, print)
    assert (packed.hash, np.array_equal(np.asarray(packed.labels_NC), labels_NC)) == (index.hash, True)
    values = np.load(tmp_path / "train/label_value_L.npy")
    values[0] = -values[0]
    np.save(tmp_path / "train/label_value_L.npy", values)
    with pytest.raises(UserError, match="damaged: its columns"):
        open_index(tmp_path / "train")


def test_few_labels_stay_an_array_with_the_hash_that_it_always_had(tmp_path: Path) -> None:
    index = written(tmp_path, drawn(0))
    assert isinstance(index.labels_NC, np.ndarray)
    header = json.loads((tmp_path / "train/index.json").read_text())
    assert (header["version"], header["columns"]["labels_NC"]) == (1, [SAMPLES, CLASSES])
