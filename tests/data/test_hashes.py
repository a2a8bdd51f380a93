"""What a score names is what was read: columns, headers, images and features are compared with their hashes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.data.decode_pil import BrokenImage
from masksup.data.index import Index, open_index
from masksup.data.shapes import prepare_shapes
from masksup.data.split import whole
from masksup.data.write_index import write_index
from masksup.data.write_shards import pack_index
from masksup.engine.build import new_network
from masksup.engine.features import FeatureFolder, FrozenFeatures
from masksup.errors import UserError


@pytest.fixture
def index(tmp_path: Path) -> Index:
    for content in prepare_shapes(tmp_path / "root", train=6, val=2, test=2, size=32, seed=3):
        write_index(tmp_path / content.split, content)
    return open_index(tmp_path / "train")


def flip(file: Path, at: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)


COLUMNS = (
    "sizes_I2", "file_hash_I16", "sample_image_N", "labels_NC", "box_start_N1", "boxes_M4", "box_class_M",
    "box_share_M", "box_flags_M", "image_name_bytes", "image_name_start_I1", "id_bytes", "id_start_N1",
)  # fmt: skip


@pytest.mark.parametrize("column", COLUMNS)
def test_one_flipped_bit_of_a_column_is_found_when_the_index_is_opened(index: Index, column: str) -> None:
    flip(index.folder / f"{column}.npy", -1)
    with pytest.raises(UserError, match=r"train: damaged: its columns \(\*\.npy\) are not those that the hash"):
        open_index(index.folder)


@pytest.mark.parametrize("key", ["note", "name", "split", "classes", "exif", "hash", "samples"])
def test_a_header_that_was_changed_is_found(index: Index, key: str) -> None:
    file = index.folder / "index.json"
    header = json.loads(file.read_text())
    header[key] = [*header[key][1:], "z"] if key == "classes" else "0"
    file.write_text(json.dumps(header))
    with pytest.raises(UserError, match=r"index\.json: damaged header"):
        open_index(index.folder)


def test_an_index_of_an_older_version_opens_and_its_root_may_be_edited(index: Index, tmp_path: Path) -> None:
    file = index.folder / "index.json"
    header = json.loads(file.read_text())
    (tmp_path / "root").rename(tmp_path / "moved")
    header["root"] = header["root"].replace("/root/", "/moved/")
    for old in (False, True):
        if old:
            del header["header_sha256"]
        file.write_text(json.dumps(header))
        again = open_index(index.folder)
        assert again.hash == index.hash
        assert len(again.read(0)) > 100


@pytest.mark.parametrize("packed", [False, True])
def test_an_image_that_was_exchanged_is_named_and_never_read(index: Index, tmp_path: Path, packed: bool) -> None:
    """A whole image, which every decoder takes."""
    if packed:
        index = pack_index(index, tmp_path / "packed", 2**20, lambda _: None)
        shards = index.shards
        assert shards is not None
        flip(shards.path(2), int(shards.offset_I[2]) + int(shards.length_I[2]) - 20)
    else:
        Image.new("RGB", (32, 32), "red").save(index.path(2))
    index = open_index(index.folder)
    assert index.read(1)
    with pytest.raises(BrokenImage, match=r"000003.*: found other bytes than when the index .* was made") as raised:
        index.read(2)
    assert "\n" not in str(raised.value)


def features(index: Index, folder: Path, said: list[str]) -> FrozenFeatures:
    config: Config = validate({"data": {"train": "/d"}, "model": {"backbone": "test_resnet", "size": 32}}, "test")
    torch.manual_seed(0)
    network = new_network(config, len(index.classes))
    kept = FeatureFolder(folder, network, config, torch.device("cpu"), torch.float32)
    return kept.features(whole(index), False, said.append)


def test_features_that_were_damaged_are_computed_again(index: Index, tmp_path: Path) -> None:
    said: list[str] = []
    right = np.array(features(index, tmp_path / "kept", said).plain)
    [file] = (tmp_path / "kept").glob("*.npy")
    assert np.array_equal(features(index, tmp_path / "kept", said).plain, right)
    assert len(said) == 1, "what is whole is not computed again"

    flip(file, -30, 6)
    assert np.array_equal(features(index, tmp_path / "kept", said).plain, right)
    assert f"{file}: its sha256 is not the one in {file.stem}.sha256; these features are computed again" in said
    file.write_bytes(file.read_bytes()[:100])
    assert np.array_equal(features(index, tmp_path / "kept", said).plain, right)

    file.with_suffix(".sha256").unlink()  # as older versions left it
    before = len(said)
    assert np.array_equal(features(index, tmp_path / "kept", said).plain, right)
    assert len(said) == before
