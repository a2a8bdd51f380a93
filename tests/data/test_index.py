"""The index: what is written is what is read, memory-mapped; damage and foreign folders are named."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masksup.data import write_index as write_module
from masksup.data.index import CROWD, DIFFICULT, open_index
from masksup.data.write_index import IndexContent, write_index
from masksup.errors import UserError

COLUMNS = (
    "sizes_I2", "file_hash_I16", "sample_image_N", "crop_N4", "labels_NC", "box_start_N1", "boxes_M4",
    "box_class_M", "box_share_M", "box_flags_M",
)  # fmt: skip


def make_content(root: Path, images: int = 4, seed: int = 0, crops: bool = False) -> IndexContent:
    rng = np.random.default_rng(seed)
    per_sample = rng.integers(0, 4, images)
    boxes = int(per_sample.sum())
    return IndexContent(
        root=root, name="voc", split="train", classes=("cat", "dög"), exif=True, note="synthetic",
        image_names=[f"b/{k}é.jpg" for k in range(images)], ids=[f"é{k}" for k in range(images)],
        sizes_I2=rng.integers(1, 500, (images, 2)).astype(np.int32),
        file_hash_I16=rng.integers(0, 256, (images, 16)).astype(np.uint8),
        sample_image_N=rng.permutation(images).astype(np.int32),
        crop_N4=rng.random((images if crops else 0, 4)).astype(np.float32),
        labels_NC=rng.integers(-1, 2, (images, 2)).astype(np.int8),
        box_start_N1=np.concatenate([[0], np.cumsum(per_sample)]).astype(np.int64),
        boxes_M4=rng.random((boxes, 4)).astype(np.float32),
        box_class_M=rng.integers(0, 2, boxes).astype(np.int16),
        box_share_M=rng.random(boxes).astype(np.float32),
        box_flags_M=rng.choice(np.array([0, DIFFICULT, CROWD], np.uint8), boxes),
    )  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(images=st.integers(1, 30), seed=st.integers(0, 99), crops=st.booleans())
def test_everything_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, images: int, seed: int, crops: bool
) -> None:
    folder = tmp_path_factory.mktemp("index") / "train"
    content = make_content(folder.parent, images, seed, crops)
    index = write_index(folder, content)
    assert len(index) == images
    assert (index.name, index.split, index.classes) == ("voc", "train", ("cat", "dög"))
    assert (index.exif, index.note, index.root) == (True, "synthetic", folder.parent)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(index, column), getattr(content, column), column)
    assert [index.id(sample) for sample in range(images)] == content.ids
    for sample, image in enumerate(content.sample_image_N):
        assert index.path(sample) == folder.parent / content.image_names[image]
        start, end = content.box_start_N1[sample : sample + 2]
        xyxy_K4, class_K, share_K, flags_K = index.boxes(sample)
        np.testing.assert_array_equal(xyxy_K4, content.boxes_M4[start:end])
        np.testing.assert_array_equal(class_K, content.box_class_M[start:end])
        np.testing.assert_array_equal(share_K, content.box_share_M[start:end])
        np.testing.assert_array_equal(flags_K, content.box_flags_M[start:end])


def test_columns_are_mapped_not_read_and_a_worker_maps_the_same_files(tmp_path: Path) -> None:
    index = write_index(tmp_path / "train", make_content(tmp_path, 50, crops=True))
    pickled = pickle.dumps(index)
    assert len(pickled) < 1000  # a spawned worker gets the folder's name, not a copy
    for one in (index, pickle.loads(pickled)):
        for column in COLUMNS:
            mapped = getattr(one, column).base
            assert isinstance(mapped, np.memmap)
            assert mapped.mode == "r"
            assert Path(mapped.filename) == tmp_path / "train" / f"{column}.npy"


def test_hash_names_the_content_and_nothing_else(tmp_path: Path) -> None:
    content = make_content(tmp_path)
    first = write_index(tmp_path / "a", content).hash
    moved = replace(content, root=tmp_path / "elsewhere", name="other", split="val", note="")
    assert write_index(tmp_path / "b", moved).hash == first
    labels_NC = content.labels_NC.copy()
    labels_NC[0, 0] = 1 if labels_NC[0, 0] != 1 else 0
    changed = [
        replace(content, labels_NC=labels_NC),
        replace(content, classes=("dög", "cat")),
        replace(content, exif=False),
        replace(content, ids=["x", *content.ids[1:]]),
        replace(content, image_names=["x", *content.image_names[1:]]),
        replace(content, file_hash_I16=content.file_hash_I16 + np.uint8(1)),
    ]
    hashes = {write_index(tmp_path / "c", one).hash for one in changed}
    assert len(hashes | {first}) == len(changed) + 1


def test_moved_index_opens_and_a_moved_root_is_named_at_first_use(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    write_index(tmp_path / "a", make_content(root))
    (tmp_path / "a").rename(tmp_path / "b")
    index = open_index(tmp_path / "b")
    assert index.path(0).is_relative_to(root)
    root.rmdir()
    index = open_index(tmp_path / "b")
    with pytest.raises(UserError, match=r"b: found no folder '.*images'"):
        index.path(0)


def test_item_outside_the_index_is_an_error(tmp_path: Path) -> None:
    index = write_index(tmp_path / "a", make_content(tmp_path))
    for sample in (-1, 4):
        with pytest.raises(IndexError):
            index.id(sample)


def test_missing_foreign_and_many_split_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: no such folder"):
        open_index(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"found no index\.json"):
        open_index(tmp_path)
    for split in ("val", "train"):
        write_index(tmp_path / split, make_content(tmp_path))
    with pytest.raises(UserError, match=r"found splits train, val, expected one: .*train"):
        open_index(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"version": 99}, "format version 99, expected 1"),
        ({"format": "other"}, "another kind of JSON"),
        ({"classes": None}, "damaged header"),
        ({"columns": {}}, "damaged header"),
    ],
)
def test_header_of_another_kind_is_refused(tmp_path: Path, damage: dict[str, object], message: str) -> None:
    write_index(tmp_path / "a", make_content(tmp_path))
    file = tmp_path / "a" / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(UserError, match=message):
        open_index(tmp_path / "a")
    file.write_text("{")
    with pytest.raises(UserError, match="malformed JSON"):
        open_index(tmp_path / "a")


@pytest.mark.parametrize("column", COLUMNS)
def test_truncated_missing_and_exchanged_columns_are_named(tmp_path: Path, column: str) -> None:
    content = make_content(tmp_path, 30, crops=True)
    file = tmp_path / "a" / f"{column}.npy"
    write_index(tmp_path / "a", content)
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:100], b""):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{column}\.npy: truncated or damaged"):
            open_index(tmp_path / "a")
    np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=rf"{column}\.npy: found <f8 \[3\], expected"):
        open_index(tmp_path / "a")
    file.unlink()
    with pytest.raises(UserError, match=rf"{column}\.npy: no such file"):
        open_index(tmp_path / "a")


def test_column_holding_pickles_is_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    write_index(tmp_path / "a", make_content(tmp_path))
    np.save(tmp_path / "a" / "labels_NC.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="truncated or damaged"):
        open_index(tmp_path / "a")
    assert not (tmp_path / "executed").exists()


def test_ours_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    write_index(tmp_path / "a", make_content(tmp_path, 4))
    assert len(write_index(tmp_path / "a", make_content(tmp_path, 7))) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    foreign = tmp_path / "mine"
    foreign.mkdir()
    assert len(write_index(foreign, make_content(tmp_path))) == 4  # an empty folder holds nothing to lose
    shutil.rmtree(foreign)
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="mine: found a folder that is no index"):
        write_index(foreign, make_content(tmp_path))
    assert (foreign / "thesis.txt").read_text() == "years"
    with pytest.raises(UserError, match="found a file or link"):
        write_index(foreign / "thesis.txt", make_content(tmp_path))


def test_failed_write_leaves_the_old_index_and_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_index(tmp_path / "a", make_content(tmp_path, 4)).hash
    saves = {"left": 3}

    def full_disk(_: object) -> None:
        saves["left"] -= 1
        if saves["left"] == 0:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_module, "to_disk", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_index(tmp_path / "a", make_content(tmp_path, 9))
    assert open_index(tmp_path / "a").hash == old
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
