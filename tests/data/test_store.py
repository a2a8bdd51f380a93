"""Tar shards in the place of files: the same bytes, batches and runs, and never the bytes of something else."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_same_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loading import SETTINGS, equal, plan, train_set, truncate, write_images
from PIL import Image, ImageOps

from masksup.cli import main
from masksup.config.schema import Augment, Config
from masksup.data import shards
from masksup.data.dataset import EvalDataset
from masksup.data.decode_pil import BrokenImage
from masksup.data.index import Index, open_index
from masksup.data.loader import eval_loader, train_loader
from masksup.data.prepare.images import check_images
from masksup.data.reencode import Reencoding
from masksup.data.split import open_source
from masksup.data.transforms import eval_transform
from masksup.data.write_index import IndexContent, header_text, write_index
from masksup.data.write_shards import check_shards, pack_index
from masksup.errors import UserError
from masksup.training.train import train

MakeConfig = Callable[..., Config]
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore::DeprecationWarning")


def silent(_: str) -> None:
    pass


def index_of(root: Path, folder: Path, names: list[str]) -> Index:
    """An index of files that exist, with their true hashes."""
    facts = check_images(root, names, exif=False)
    n = len(names)
    content = IndexContent(
        root=root, name="test", split="train", classes=("a", "b", "c"), exif=False, note="", image_names=names,
        ids=[f"id{i}" for i in range(n)], sizes_I2=np.tile(np.array([[64, 48]], np.int32), (n, 1)),
        file_hash_I16=np.frombuffer(b"".join(facts[name].digest for name in names), np.uint8).reshape(n, 16),
        sample_image_N=np.arange(n, dtype=np.int32), crop_N4=np.zeros((0, 4), np.float32),
        labels_NC=(np.arange(n * 3).reshape(n, 3) % 3 - 1).astype(np.int8), box_start_N1=np.zeros(n + 1, np.int64),
        boxes_M4=np.zeros((0, 4), np.float32), box_class_M=np.zeros(0, np.int16),
        box_share_M=np.zeros(0, np.float32), box_flags_M=np.zeros(0, np.uint8),
    )  # fmt: skip
    return write_index(folder, content)


@pytest.fixture
def files(tmp_path: Path) -> Index:
    (tmp_path / "images").mkdir()
    return index_of(tmp_path / "images", tmp_path / "files", write_images(tmp_path / "images", 23))


@pytest.fixture
def packed(files: Index, tmp_path: Path) -> Index:
    """About four images a shard, and the files gone."""
    index = pack_index(files, tmp_path / "packed", 12_000, silent)
    for sample in range(len(files)):
        files.path(sample).unlink()
    return index


def shards_of(index: Index) -> list[Path]:
    return sorted((index.folder / "shards").iterdir())


def test_an_index_in_shards_is_the_same_index(files: Index, tmp_path: Path) -> None:
    packed = pack_index(files, tmp_path / "packed", 12_000, silent)
    assert packed.hash == files.hash
    assert 4 <= len(shards_of(packed)) <= 12
    assert all(shard.stat().st_size <= 12_000 for shard in shards_of(packed))
    for sample in range(len(files)):
        assert packed.read(sample) == files.read(sample)
        assert packed.id(sample) == files.id(sample)
    for column in (file.name for file in files.folder.glob("*.npy")):
        assert (packed.folder / column).read_bytes() == (files.folder / column).read_bytes()
    again = pack_index(packed, tmp_path / "again", 2**30, silent)
    assert [again.read(n) for n in range(23)] == [files.read(n) for n in range(23)]
    assert len(shards_of(again)) == 1
    assert not list(tmp_path.glob(".*"))


def test_shards_are_tar_files_that_any_tar_reads(files: Index, tmp_path: Path) -> None:
    packed = pack_index(files, tmp_path / "packed", 12_000, silent)
    found = {}
    for shard in shards_of(packed):
        with tarfile.open(shard) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert found == {files.image_name(n): files.read(n) for n in range(23)}


def test_the_folder_may_be_moved_and_the_index_sent_to_another_process(packed: Index, tmp_path: Path) -> None:
    first = packed.read(0)
    packed.folder.rename(tmp_path / "moved")
    moved = open_index(tmp_path / "moved")
    assert moved.read(0) == first
    assert pickle.loads(pickle.dumps(moved)).read(0) == first


@pytest.mark.parametrize(("workers", "kind"), [(0, "processes"), (2, "processes"), (2, "threads")])
def test_batches_are_those_of_files(files: Index, tmp_path: Path, workers: int, kind: Any) -> None:
    packed = pack_index(files, tmp_path / "packed", 12_000, silent)
    p = plan()
    packed.read(0)  # descriptors that workers inherit
    batches = [list(train_loader(train_set(index, p), 0, workers, kind=kind)) for index in (files, packed)]
    assert equal(*batches)
    blocks = [list(eval_loader(EvalDataset(i, eval_transform(SETTINGS, 32)), 5, workers)) for i in (files, packed)]
    assert equal([blocks[0]], [blocks[1]])


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40)


@given(
    members=st.lists(st.tuples(names, st.integers(0, 3000)), min_size=1, max_size=8, unique_by=lambda m: m[0]),
    depth=st.integers(0, 4), shard=st.integers(1, 9000),
)  # fmt: skip
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_names_and_lengths_are_found_again(
    members: list[tuple[str, int]], depth: int, shard: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    where = "long folder names/" * 2 * depth  # beyond the 100 bytes of the header, too
    contents = {where + name: os.urandom(length) for name, length in members}
    lengths, at, members_at = [], 0, []
    with (folder / "0.tar").open("wb") as file:
        for name, data in contents.items():
            file.write(shards.tar_header(name, len(data)))
            members_at.append((0, file.tell(), len(data)))
            file.write(data + bytes(-len(data) % shards.BLOCK))
        at = file.tell()
    lengths.append(at)
    columns = [np.array(column) for column in zip(*members_at)]
    found = shards.Shards(folder, ("0.tar",), tuple(lengths), *columns)
    assert [found.read(i, name) for i, name in enumerate(contents)] == list(contents.values())
    with pytest.raises(UserError, match="found something else than"):
        found.read(0, "another name")


def test_a_missing_shard_is_one_line(packed: Index) -> None:
    shards_of(packed)[0].unlink()
    with pytest.raises(UserError, match=r"00000-[0-9a-f]+\.tar: found no such file, expected the shard") as raised:
        packed.read(0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_shard_is_one_line_from_any_process_and_never_tolerated(packed: Index, workers: int) -> None:
    truncate(shards_of(packed)[1])
    p = plan()
    with pytest.raises(UserError, match=r"00001-[0-9a-f]+\.tar: found [\d,]+ bytes, expected [\d,]+ \(pack") as raised:
        list(train_loader(train_set(packed, p, broken_budget=0.9), 0, workers))
    assert "\n" not in str(raised.value)


def test_a_shard_that_is_cut_off_while_it_is_read_is_one_line(packed: Index) -> None:
    packed.read(0)
    truncate(shards_of(packed)[0])
    last = int(np.flatnonzero(packed.shards.shard_I == 0)[-1])  # type: ignore[union-attr]
    with pytest.raises(UserError, match=rf"found its end within '{packed.image_name(last)}'"):
        packed.read(last)


def test_a_member_that_is_not_where_the_index_says_is_one_line(packed: Index) -> None:
    offsets = np.load(packed.folder / "offset_I.npy")
    for wrong in (offsets + 512, np.roll(offsets, 1)):
        np.save(packed.folder / "offset_I.npy", wrong)
        with pytest.raises(UserError, match=r"found something else than '001\.jpg' \([\d,]+ bytes\) at byte \d+"):
            open_index(packed.folder).read(1)


def test_a_broken_image_in_a_shard_is_named_and_may_be_within_the_budget(files: Index, tmp_path: Path) -> None:
    broken = tmp_path / "images" / "009.jpg"
    data = broken.read_bytes()
    broken.write_bytes(data[:200])
    with pytest.raises(UserError, match=r"009\.jpg: found other bytes than when the index"):
        pack_index(files, tmp_path / "packed", 12_000, silent)
    assert not (tmp_path / "packed").exists()
    assert not list(tmp_path.glob(".packed*"))
    broken.write_bytes(data)
    packed = pack_index(files, tmp_path / "packed", 12_000, silent)
    shard = packed.shards
    assert shard is not None
    with shard.path(9).open("r+b") as file:
        file.seek(int(shard.offset_I[9]) + 300)
        file.write(bytes(int(shard.length_I[9]) - 300))
    with pytest.raises(UserError, match=r"tar: 009\.jpg: found other bytes than when the index"):
        list(eval_loader(EvalDataset(packed, eval_transform(SETTINGS, 32)), 5, 0))
    blocks = list(eval_loader(EvalDataset(packed, eval_transform(SETTINGS, 32), broken_budget=0.1), 5, 0))
    assert torch.cat([block["broken"] for block in blocks]).nonzero().tolist() == [[9]]
    with pytest.raises(UserError, match=r"tar: 009\.jpg: found other bytes"):
        check_shards(packed)


def test_few_descriptors_stay_open_and_none_after_the_index(packed: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OPEN_SHARDS", 2)
    index = open_index(packed.folder)

    def held() -> int:
        found = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
        return sum(link.is_symlink() and ".tar" in str(link.readlink()) for link in found)

    before = held()
    assert [len(index.read(n)) for n in range(23)] == [len(index.read(n)) for n in range(23)]
    assert held() - before == 2
    del index
    assert held() == before


def test_a_forked_process_reads_beside_its_parent(packed: Index) -> None:
    """Each reads all images, through the same descriptors, many times at once."""
    expected = [packed.read(n) for n in range(23)]
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            ok = all([packed.read(n) for n in range(23)] == expected for _ in range(30))
            os._exit(0 if ok else 1)
        children.append(child)
    assert all([packed.read(n) for n in range(23)] == expected for _ in range(30))
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_what_is_there_is_not_replaced(files: Index, packed: Index, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--out .*packed: found it there already, expected a new folder"):
        pack_index(files, tmp_path / "packed", 12_000, silent)
    (tmp_path / "new").mkdir()
    names = write_images(tmp_path / "new", 2)
    with pytest.raises(UserError, match="packed: found an index with tar shards"):
        index_of(tmp_path / "new", tmp_path / "packed", names)
    assert len(packed.read(3)) > 100


def test_the_command(files: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    assert main(["shards", str(files.folder), "--out", str(out), "--shard-size", "12K"]) == 0
    assert f"{out}: 23 images in" in capsys.readouterr().out
    assert main(["shards", str(out), "--check"]) == 0
    assert "23 images, as when" in capsys.readouterr().out
    files.path(5).unlink()
    for argv, line in (
        ([str(files.folder), "--out", str(out)], "found it there already"),
        ([str(files.folder), "--out", str(tmp_path / "other")], "005.jpg: found no such file"),
        ([str(tmp_path), "--out", str(tmp_path / "other")], "expected one"),
        ([str(files.folder), "--check", "--reencode", "q90"], "found it with --check, which writes nothing"),
        ([str(files.folder), "--check", "--shard-size", "1G"], "--shard-size: found it with --check, which writes"),
    ):
        assert main(["shards", *argv]) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1
    assert not (tmp_path / "other").exists()


def test_a_run_from_shards_is_bit_equal_to_one_from_files(
    tiny_data: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """With evaluation, the test part, pictures in TensorBoard, and the check for leaks."""
    for split in ("train", "val", "test"):
        packed = pack_index(open_index(tiny_data / split), tmp_path / "packed" / split, 20_000, silent)
        assert len(shards_of(packed)) > 1
    common = {"data__workers": 1, "log__images": 3, "epochs": 1}
    for name, folder in (("files", tiny_data), ("packed", tmp_path / "packed")):
        data = {"data__train": "train", "data__eval": "val", "data__test": "test"}
        parts = {key: str(folder / split) for key, split in data.items()}
        assert train(tiny_config(**common, **parts), tmp_path / "runs" / name) == 0
    assert_same_run(tmp_path / "runs" / "files", tmp_path / "runs" / "packed")
    results = [json.loads((tmp_path / "runs" / name / "result.json").read_text()) for name in ("files", "packed")]
    for key in ("eval", "test"):
        one, other = (result["best"][key] for result in results)
        changing = {"checkpoint", "checkpoint_sha256"}
        assert {k: v for k, v in one["protocol"].items() if k not in changing} == {
            k: v for k, v in other["protocol"].items() if k not in changing
        }
        assert one["mAP"] == other["mAP"]


def test_a_leak_from_files_into_shards_is_seen(tiny_data: Path, tiny_config: MakeConfig, tmp_path: Path) -> None:
    pack_index(open_index(tiny_data / "train"), tmp_path / "packed", 20_000, silent)
    config = tiny_config(data__eval=str(tmp_path / "packed"))
    with pytest.raises(UserError, match=r"data\.eval: 50 of 50 samples .*\.tar: "):
        open_source(config.data, 0)


def photographs(tmp_path: Path) -> Index:
    """Of different sizes, one of them turned by its EXIF; each with a box that it is half of, and one a person."""
    root = tmp_path / "photographs"
    root.mkdir()
    rng = np.random.default_rng(0)
    sizes = [(640, 480), (300, 500), (90, 60), (48, 200)]
    for number, (width, height) in enumerate(sizes):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        exif = Image.Exif()
        if number == 1:
            exif[0x0112] = 6
            coarse = coarse.rotate(90, expand=True)
        stored = (height, width) if number == 1 else (width, height)
        coarse.resize(stored, Image.Resampling.BICUBIC).save(root / f"{number}.jpg", quality=97, exif=exif)
    names = [f"{number}.jpg" for number in range(len(sizes))]
    facts = check_images(root, names, exif=True)
    size = np.array(sizes, np.int32)
    half = np.concatenate([np.zeros_like(size), size // [2, 1]], axis=1).astype(np.float32)
    n = len(sizes)
    content = IndexContent(
        root=root, name="test", split="train", classes=("a",), exif=True, note="by hand", image_names=names,
        ids=names, sizes_I2=size, file_hash_I16=np.stack([np.frombuffer(facts[x].digest, np.uint8) for x in names]),
        sample_image_N=np.arange(n, dtype=np.int32), crop_N4=half, labels_NC=np.ones((n, 1), np.int8),
        box_start_N1=np.arange(n + 1), boxes_M4=half, box_class_M=np.zeros(n, np.int16),
        box_share_M=np.full(n, 0.5, np.float32), box_flags_M=np.zeros(n, np.uint8),
    )  # fmt: skip
    return write_index(tmp_path / "index", content)


def test_encoded_anew_images_are_smaller_and_boxes_follow_and_the_index_says_so(tmp_path: Path, capsys) -> None:
    index = photographs(tmp_path)
    out = tmp_path / "small"
    assert main(["shards", str(index.folder), "--out", str(out), "--reencode", "q90", "--short-side", "60"]) == 0
    assert "images re-encoded as JPEG of quality 90, short side at most 60 px" in capsys.readouterr().out
    small = open_index(out)
    assert small.sizes_I2.tolist() == [[80, 60], [60, 100], [90, 60], [48, 200]]
    assert small.note == "by hand; images re-encoded as JPEG of quality 90, short side at most 60 px"
    assert small.hash != index.hash
    assert check_shards(small) == 4
    np.testing.assert_array_equal(small.boxes_M4[:, 2:], small.sizes_I2 // [2, 1])
    np.testing.assert_array_equal(small.crop_N4, small.boxes_M4)
    np.testing.assert_array_equal(small.labels_NC, index.labels_NC)
    for number in range(4):
        found = Image.open(io.BytesIO(small.read_image(number)))
        assert found.format == "JPEG"
        assert not found.getexif()
        seen = ImageOps.exif_transpose(Image.open(index.path(number))).resize(found.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(found, float) - np.asarray(seen, float)).mean() < 6, (
            "the same picture, the right way up"
        )


def test_raw_shards_give_the_batches_of_the_files_with_nothing_to_decode(tmp_path: Path, capsys) -> None:
    index, out = photographs(tmp_path), tmp_path / "raw"
    assert main(["shards", str(index.folder), "--out", str(out), "--reencode", "raw"]) == 0
    assert "images re-encoded as PPM\n" in capsys.readouterr().out
    raw = open_index(out)
    assert raw.note == "by hand; images re-encoded as PPM"
    assert raw.hash != index.hash, "the bytes are others, even where the pixels are not"
    assert check_shards(raw) == 4
    for number in range(4):
        assert Image.open(io.BytesIO(raw.read_image(number))).format == "PPM", "a file that other programs read"
    for size in (48, 700):
        wanted, found = (
            list(eval_loader(EvalDataset(each, eval_transform(Augment(), size)), 4, 0)) for each in (index, raw)
        )
        assert equal([wanted], [found])


@pytest.mark.parametrize("old", [False, True], ids=["checksum", "hash"])
def test_a_changed_byte_of_a_shard_is_seen_by_its_checksum_or_in_older_shards_by_its_hash(
    tmp_path: Path, old: bool
) -> None:
    index = pack_index(photographs(tmp_path), tmp_path / "raw", 1 << 30, silent, Reencoding(None, 60))
    if old:
        header = json.loads((index.folder / "index.json").read_text())
        del header["columns"]["crc_I"], header["header_sha256"]
        (index.folder / "index.json").write_text(header_text(header))
        (index.folder / "crc_I.npy").unlink()
        index = open_index(index.folder)
    assert check_shards(index) == 4
    assert index.shards is not None
    with index.shards.path(2).open("r+b") as file:
        file.seek(int(index.shards.offset_I[2]) + 1000)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    index.read_image(1)
    with pytest.raises(BrokenImage, match=r"2\.jpg: found other bytes than when the index"):
        index.read_image(2)


def test_a_shard_whose_checksums_are_of_it_but_not_its_hashes_is_seen_by_the_check(tmp_path: Path) -> None:
    index = pack_index(photographs(tmp_path), tmp_path / "raw", 1 << 30, silent, Reencoding(None, 60))
    others = index.file_hash_I16.copy()
    others[1, 0] ^= 1
    with pytest.raises(BrokenImage, match=r"1\.jpg: found other bytes"):
        check_shards(replace(index, file_hash_I16=others))


def test_encoding_anew_is_the_same_every_time_and_in_shards_of_any_size(tmp_path: Path) -> None:
    index = photographs(tmp_path)
    for name, size in (("one", 1 << 20), ("many", 1)):
        pack_index(index, tmp_path / name, size, silent, Reencoding(80))
    one, many = open_index(tmp_path / "one"), open_index(tmp_path / "many")
    assert len(many.shards.names) == 4
    assert one.hash == many.hash
    assert one.sizes_I2.tolist() == index.sizes_I2.tolist()


def test_a_run_and_its_scores_name_images_that_were_encoded_anew(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(epochs=1)
    for key in ("train", "eval"):
        pack_index(open_index(Path(getattr(config.data, key))), tmp_path / key, 1 << 20, silent, Reencoding(90, 16))
    small = config.model_copy(update={"data": config.data.model_copy(
        update={"train": str(tmp_path / "train"), "eval": str(tmp_path / "eval")})})  # fmt: skip
    assert train(small, tmp_path / "run") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (
        "images re-encoded as JPEG of quality 90, short side at most 16 px"
        in result["last"]["eval"]["protocol"]["note"]
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--short-side", "512"], "--short-side: found it without --reencode"),
        (["--reencode", "90"], "found 90, expected raw, or q1 to q100"),
        (["--reencode", "q0"], "found q0, expected raw, or q1 to q100"),
        (["--reencode", "q90", "--short-side", "0"], "found 0, expected a number of pixels"),
    ],
)
def test_wrong_encodings_are_one_line(words: list[str], told: str, files: Index, tmp_path: Path, capsys) -> None:
    with suppress(SystemExit):
        assert main(["shards", str(files.folder), "--out", str(tmp_path / "out"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
