"""A damaged file is named in one line or changes nothing, whatever reads it: no other result, crash, hang or memory."""

import hashlib
import json
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from damage import Reader, faults
from PIL import Image
from torch import Tensor

from launch.cluster.resources import read_resources
from launch.ledger import Folder, starts
from launch.sweeps.settings import settings
from masksup.base.files import write_sealed
from masksup.config.load import dump, load_config, to_yaml, validate
from masksup.config.schema import Config
from masksup.data.decode import decode
from masksup.data.index import Index, open_index
from masksup.data.prepare.coco import prepare_coco
from masksup.data.prepare.csv import prepare_csv
from masksup.data.prepare.voc_own import prepare_voc
from masksup.data.prepare.wider import prepare_wider
from masksup.data.shapes import prepare_shapes
from masksup.data.split import whole
from masksup.data.write_index import IndexContent, write_index
from masksup.data.write_shards import pack_index
from masksup.decisions.calibration import Platt
from masksup.decisions.decisions import Decisions, Fitted, read_decisions, write_decisions
from masksup.engine.build import new_network
from masksup.engine.features import FeatureFolder
from masksup.inference.card import Card, Preprocessing
from masksup.inference.model_file import open_exported, seal
from masksup.inference.preprocess import load_image
from masksup.models.weight_files import read_file
from masksup.report.gather import CALIBRATION, kept_calibration, kept_outputs
from masksup.runtime.checkpoint import State, read_checkpoint, write_checkpoint
from masksup.runtime.metrics_rows import read_rows
from masksup.runtime.starts import new_start
from masksup.saved.base_file import read_base, write_base
from masksup.saved.packed import Packed, read_packed, write_packed

MUTATIONS = int(os.environ.get("MASKSUP_MUTATIONS", "500"))
FIRST_SEED = int(os.environ.get("MASKSUP_FIRST_SEED", "0"))
CLASSES = ("cat", "dog")
PREPROCESSING = Preprocessing(8, "squish", "bilinear", 0.875, (0, 0, 0), True, 10**6, (0.5,) * 3, (0.5,) * 3)


def digest(*arrays: Any) -> list[str]:
    return [hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:8] for array in arrays]


def tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(9, 7, generator=draw) for name in ("model/a", "model/b", "optim/c")}


def tensors_of(found: dict[str, Tensor]) -> dict[str, list[str]]:
    return {name: digest(value.float().numpy()) for name, value in found.items()}


def decisions() -> Decisions:
    fitted = Fitted("run/step-000000003-a01", "ab" * 32, 3, "live", "shapes val", "cd" * 32, 20, "5 folds")
    return Decisions(CLASSES, (0.25, 0.75), Platt((0.5, 1.5), (0.1, -0.2)), ("own", "given"), "f1", fitted)


def config() -> Config:
    return validate({"data": {"train": "/data/train"}, "model": {"backbone": "test_resnet", "size": 32}}, "test")


# Index, shards and features


def make_index(folder: Path) -> None:
    for content in prepare_shapes(folder.parent / "drawn", train=6, val=3, test=3, size=32, seed=3):
        write_index(folder / content.split, content)


def of_content(content: IndexContent | Index) -> Any:
    names = ("sizes_I2", "file_hash_I16", "sample_image_N", "crop_N4", "labels_NC", "boxes_M4", "box_share_M")
    return content.name, content.split, content.classes, digest(*(getattr(content, name) for name in names))


def read_index(folder: Path) -> Any:
    index = open_index(folder)
    images = [zlib.crc32(index.read(sample)) for sample in range(len(index))]
    labels = [(index.id(n), index.boxes(n)[0].tolist()) for n in range(len(index))]
    return *of_content(index), index.hash, index.exif, index.note, images, labels


def make_shards(folder: Path) -> None:
    make_index(folder.parent / "files")
    pack_index(open_index(folder.parent / "files" / "train"), folder, 4000, lambda _: None)


def read_features(folder: Path) -> Any:
    torch.manual_seed(0)
    make_index(folder.parent / "files") if not (folder.parent / "files").exists() else None
    part = whole(open_index(folder.parent / "files" / "val"))
    network = new_network(config(), len(part.index.classes))
    cpu = torch.device("cpu")
    found = FeatureFolder(folder, network, config(), cpu, torch.float32).features(part, True, lambda _: None)
    assert found.flipped is not None
    return digest(found.plain, found.flipped)


# What a run keeps


def make_checkpoint(folder: Path) -> None:
    write_checkpoint(folder, "step-000000003-a01", State(tensors(), {"step": 3, "config": dump(config())}))


def read_a_checkpoint(folder: Path) -> Any:
    state = read_checkpoint(folder / "step-000000003-a01")
    return tensors_of(state.tensors), state.meta


def make_base(folder: Path) -> None:
    folder.mkdir()
    write_base(folder, tensors())


def read_a_base(folder: Path) -> Any:
    whole = hashlib.sha256(safetensors.torch.save(tensors())).hexdigest()  # of equal tensors, equal bytes
    return tensors_of(read_base(folder, whole))


def make_rows(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        rows = [{"kind": "train", "step": n, "epoch": 0.1 * n, "loss": 1 / (n + 1)} for n in range(40)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    return make


def make_starts(folder: Path) -> None:
    folder.mkdir()
    for _ in range(4):
        new_start(folder)
    (folder / "checkpoints" / "step-000000007-a04").mkdir(parents=True)


def read_starts(folder: Path) -> Any:
    start = new_start(folder)
    return start > 4  # no checkpoint has its name yet


def make_launched(folder: Path) -> None:
    (folder / "launch").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in (1, 2, 3):
        rows.append({"number": number, "job": "12", "restart": number, "began": 1.5, "nodes": ["n1"], "gpus": 2})
        rows.append({"number": number, "outcome": "preempted", "ended": 2.5, "last_step": 3})
    (folder / "launch" / "starts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_decisions(folder: Path) -> None:
    folder.mkdir()
    write_decisions(folder, decisions())


def make_calibration(folder: Path) -> None:
    folder.mkdir()
    classes = {name: {"threshold": at, "f1": 61.5} for name, at in zip(CLASSES, decisions().thresholds)}
    write_sealed(folder / CALIBRATION, {"fitted": vars(decisions().fitted), "aim": "f1", "classes": classes})


def read_calibration(folder: Path) -> Any:
    found = kept_calibration(folder, decisions())
    return found and [found[key] for key in ("fitted", "aim", "classes")]


def make_logits(folder: Path) -> None:
    make_index(folder.parent / "files")
    folder.mkdir()
    logits_NC = np.arange(15, dtype=np.float32).reshape(3, 5)
    np.savez(folder / "logits.npz", logits=logits_NC, broken=np.zeros(3, bool))


def read_logits(folder: Path) -> Any:
    file = folder / "logits.npz"
    kept = kept_outputs(file, whole(open_index(folder.parent / "files" / "val"))) if file.exists() else None
    again = np.arange(15, dtype=np.float32).reshape(3, 5), np.zeros(3, bool)
    return digest(*(again if kept is None else (kept.logits_NC, kept.broken_N)))


def make_archive(folder: Path) -> None:
    folder.mkdir()
    name, facts = "run/step-000000003-a01", ("ab" * 32, 3, 1.5, "live", "note")
    write_packed(folder / "model.zip", Packed(config(), CLASSES, decisions(), tensors(), name, *facts), "# card")


def read_archive(folder: Path) -> Any:
    found = read_packed(folder / "model.zip")
    facts = found.classes, found.decisions, found.checkpoint, found.sha256, found.step, found.weights, found.note
    return to_yaml(found.config), facts, tensors_of(found.tensors)


def make_exported(folder: Path) -> None:
    folder.mkdir()
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = np.random.default_rng(0).normal(size=(192, 2)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["float"], to=kinds.FLOAT),
            helper.make_node("Flatten", ["float"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "model",
        [helper.make_tensor_value_info("images", kinds.UINT8, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    entry = model.metadata_props.add()
    entry.key, entry.value = "masksup", Card(PREPROCESSING, decisions(), "fp32", 4, {"note": "ä"}).to_text()
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content + seal(content))


def read_exported(folder: Path) -> Any:
    found = open_exported(folder / "model.onnx", threads=1)
    return str(found.card), digest(found.logits(np.full((1, 3, 8, 8), 7, np.uint8)))


# What people write


def make_text(name: str, text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / name).write_text(text)

    return make


CONFIG = "epochs: 2\ndata: {train: /data/train, workers: 0}\nmodel:\n  backbone: test_resnet\n  size: 32\n"
SWEEP = "base: base.yaml\nset: {epochs: 8}\ngrid:\n  optim.lr: [0.002, 0.005]\nlist:\n  - {name: w, optim.lr: 0.01}\n"
SITE = "partition: gpu\nnodes: 2\nsbatch: {reservation: some}\nenvironment: {A: b}\n"


def make_sweep(folder: Path) -> None:
    make_text("sweep.yaml", SWEEP)(folder)
    (folder / "base.yaml").write_text(CONFIG)


def read_prepared(prepare: Callable[[Path], list[IndexContent]]) -> Callable[[Path], Any]:
    return lambda folder: [of_content(content) for content in prepare(folder)]


def picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)).save(file)


def make_coco(folder: Path) -> None:
    for number in (1, 2):
        picture(folder / "images" / f"{number}.jpg")
    box = {"bbox": [1, 2, 10.5, 8], "iscrowd": 0, "area": 84.0}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val.json").write_text(
        json.dumps({
            "images": [{"id": n, "file_name": f"{n}.jpg", "width": 30, "height": 24} for n in (1, 2)],
            "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dög"}],
            "annotations": [{"id": n, "image_id": n, "category_id": c, **box} for n, c in ((1, 3), (2, 7))],
        })
    )  # fmt: skip


def make_wider(folder: Path) -> None:
    picture(folder / "Image" / "a" / "1.jpg")
    person = {"bbox": [1.5, 2, 9, 9], "attribute": [1, -1, 0] * 4 + [1, 1]}
    (folder / "Annotations").mkdir()
    content = {"images": [{"file_name": "a/1.jpg", "scene_id": 0, "targets": [person, person]}]}
    (folder / "Annotations" / "wider_attribute_test.json").write_text(json.dumps(content))


def make_csv(folder: Path) -> None:
    for number in (1, 2, 3):
        picture(folder / f"{number}.jpg")
    (folder / "val.csv").write_text("image,cat,dog\n1.jpg,1,0\n2.jpg,0,1\n3.jpg,-1,1\n")


def make_voc(folder: Path) -> None:
    list(prepare_shapes(folder, train=3, val=2, test=1, size=32, seed=3))


def make_pictures(folder: Path) -> None:
    for name in ("a.jpg", "b.png", "c.gif", "d.webp", "e.bmp", "f.tif", "g.ppm"):
        picture(folder / name)


def read_pictures(folder: Path) -> Any:
    files = sorted(folder.iterdir())
    decoded = [decode(file, exif=True, max_pixels=10**6).numpy() for file in files]
    return digest(*decoded, *(load_image(file, PREPROCESSING) for file in files))


def make_weights(folder: Path) -> None:
    folder.mkdir()
    safetensors.torch.save_file(tensors(), folder / "a.safetensors")
    torch.save({"state_dict": tensors()}, folder / "b.pth")
    (folder / "c.pdparams").write_bytes(pickle.dumps({k: v.numpy() for k, v in tensors().items()}, 2))


def read_weights(folder: Path) -> Any:
    return [tensors_of(read_file(folder / name)) for name in ("a.safetensors", "b.pth", "c.pdparams")]


READERS = {
    "index": Reader(make_index, lambda folder: read_index(folder / "train"), "train/*"),
    "shards": Reader(make_shards, read_index),
    "features": Reader(lambda folder: read_features(folder) and None, read_features),
    "checkpoint": Reader(make_checkpoint, read_a_checkpoint),
    "base": Reader(make_base, read_a_base),
    "metrics.jsonl": Reader(make_rows("metrics.jsonl"), lambda folder: read_rows(folder / "metrics.jsonl"), own=False),
    "starts.jsonl": Reader(make_starts, read_starts),
    "launch/starts.jsonl": Reader(make_launched, lambda folder: starts(Folder(folder)), own=False),
    "decisions": Reader(make_decisions, read_decisions, absent=(None,)),
    "calibration": Reader(make_calibration, read_calibration, absent=(None,)),
    "logits": Reader(make_logits, read_logits),
    "archive": Reader(make_archive, read_archive),
    "exported": Reader(make_exported, read_exported),
    "config": Reader(make_text("c.yaml", CONFIG), lambda folder: load_config(folder / "c.yaml", []), own=False),
    "sweep": Reader(make_sweep, lambda folder: settings(folder / "sweep.yaml", []), own=False),
    "site": Reader(make_text("site.yaml", SITE), lambda folder: read_resources(folder / "site.yaml", {}), own=False),
    "coco": Reader(make_coco, read_prepared(prepare_coco), own=False),
    "wider": Reader(make_wider, read_prepared(prepare_wider), own=False),
    "csv": Reader(make_csv, read_prepared(prepare_csv), own=False),
    "voc": Reader(make_voc, read_prepared(prepare_voc), own=False),
    "pictures": Reader(make_pictures, read_pictures, own=False),
    "weights": Reader(make_weights, read_weights, own=False),
}


@pytest.mark.timeout(3600)  # of the 20,000 at night
@pytest.mark.parametrize("name", READERS)
def test_damage_is_named_or_changes_nothing(name: str, tmp_path: Path) -> None:
    """MASKSUP_FIRST_SEED=SEED MASKSUP_MUTATIONS=1 repeats one."""
    count = -(-MUTATIONS // len(READERS))
    found = faults(READERS[name], tmp_path, range(FIRST_SEED, FIRST_SEED + count))
    assert not found, f"{len(found)} of {count}:\n" + "\n".join(found)
