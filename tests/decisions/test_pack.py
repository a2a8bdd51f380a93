"""A packed model is the run it was packed from, and an archive that was altered is refused in one line."""

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from wrong_input import one_line

import masksup
from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.errors import UserError
from masksup.saved.archive import MANIFEST, MEMBERS, WEIGHTS, seal
from masksup.saved.packed import read_packed, write_packed
from masksup.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Config], tiny_data: Path) -> Path:
    """A run of seconds with fitted decisions; its best epoch is not its last."""
    folder = tmp_path_factory.mktemp("packed") / "run"
    torch.set_num_threads(1)
    assert train(tiny_config(data__test=str(tiny_data / "test")), folder) == 0
    assert main(["calibrate", str(folder), "--min-positives", "5", "--bootstrap", "20", "--class", "disc=0.4"]) == 0
    return folder


@pytest.fixture(scope="module")
def archive(run: Path) -> Path:
    file = run.parent / "model.zip"
    assert main(["pack", str(run), "--out", str(file)]) == 0
    return file


def test_the_configuration_is_read_as_it_was_written(archive: Path, tmp_path: Path) -> None:
    """By the one reader of YAML: by the rules of version 1.1 the folder 1:20 is the number 80."""
    packed = read_packed(archive)
    config = packed.config.model_copy(update={"data": packed.config.data.model_copy(update={"train": "1:20"})})
    write_packed(tmp_path / "again.zip", replace(packed, config=config), "")
    assert Path(str(read_packed(tmp_path / "again.zip").config.data.train)).name == "1:20"


def test_an_archive_is_the_run_it_was_packed_from(
    run: Path, archive: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = open_index(tiny_data / "test")
    images = [str(index.path(i)) for i in range(5)]
    said = []
    for model, out in ((run, tmp_path / "run.json"), (archive, tmp_path / "archive.json")):
        capsys.readouterr()
        assert main(["predict", str(model), *images, "--out", str(out)]) == 0
        said.append([line for line in capsys.readouterr().out.splitlines() if " prediction: " in line])
        assert main(["eval", str(model), "--json", str(out.with_suffix(".scores"))]) == 0
    assert said[0] == said[1]
    assert len(said[0]) == 5
    for suffix in (".json", ".scores"):
        of_run, of_archive = (json.loads((tmp_path / f"{name}{suffix}").read_text()) for name in ("run", "archive"))
        assert of_run == of_archive
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["thresholds"]["disc"] == 0.4

    again = archive.with_name("again.zip")
    assert main(["pack", str(archive), "--out", str(again)]) == 0
    with zipfile.ZipFile(archive) as one, zipfile.ZipFile(again) as other:
        for name in MEMBERS[1:]:  # the card of an archive knows no scores
            assert one.read(name) == other.read(name)
        card = one.read("README.md").decode()
    result = json.loads((run / "result.json").read_text())
    scores = result["best"]["test"]
    assert f"| test | {scores['mAP']:.2f} |" in card
    for fact in ("shapes train, synthetic", "calibration: platt", "aim: f1", "seed: 5", "fitted on: shapes val"):
        assert fact in card, fact
    assert str(tiny_data) not in card
    assert "found live" in one_line(["predict", str(archive), *images, "--weights", "live"], capsys)


def test_load_gives_what_predict_gives(run: Path, archive: Path, tiny_data: Path, tmp_path: Path) -> None:
    index = open_index(tiny_data / "test")
    files = [index.path(i) for i in range(4)]
    assert main(["predict", str(run), *map(str, files), "--out", str(tmp_path / "out.json")]) == 0
    expected = json.loads((tmp_path / "out.json").read_text())["images"]
    (checkpoint,) = {path.resolve() for path in (run / "checkpoints").glob("best")}
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    given = {
        "paths": files, "PIL": [Image.open(file) for file in files], "arrays": arrays,
        "tensors": (torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays),
    }  # fmt: skip
    for kind, images in given.items():
        model = masksup.load(checkpoint if kind == "arrays" else str(archive) if kind == "PIL" else run)
        found = model.predict(images)  # type: ignore[arg-type]
        for one, image in zip(found, expected, strict=True):
            # PIL and torchvision decode a JPEG not quite alike
            tolerance = 1e-6 if kind == "paths" else 0.02
            assert one.probabilities == pytest.approx(image["scores"], abs=tolerance), kind
            if kind == "paths":
                assert one.labels == image["labels"]
    model = masksup.load(archive)
    assert model.predict(files[0], threshold=0.999)[0].labels == []
    assert model.predict([]) == []
    for wrong in (3, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), torch.zeros(3, 4, 4), tmp_path / "none.jpg"):
        with pytest.raises(UserError, match=r"image 0: found|none\.jpg"):
            model.predict([wrong])  # type: ignore[list-item]
    with pytest.raises(UserError, match="no such run folder"):
        masksup.load(tmp_path / "none")
    probe = "import sys, masksup\nassert not {'torch', 'numpy', 'pydantic'} & sys.modules.keys()\n"
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_any_changed_byte_is_refused(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = archive.read_bytes()
    draw = random.Random(0)
    names = [data.index(name.encode()) for name in (MANIFEST, *MEMBERS)]
    last = range(len(data) - 400, len(data))
    places = [0, 4, 10, 14, *names, *draw.sample(range(len(data)), 30), *draw.sample(last, 60), len(data) - 1]
    changed = [data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :] for at in places]
    changed += [data[:-1], data[: len(data) // 2], data + b"\0", b"\0" + data, data[:100], b"PK\x03\x04", b""]
    file = tmp_path / "altered.zip"
    for content in changed:
        file.write_bytes(content)
        assert "altered.zip: " in one_line(["eval", str(file)], capsys)


def crafted(archive: Path, file: Path, change: Callable[[dict[str, bytes]], None], **options: int) -> Path:
    """An archive whose members were changed by someone who knows how to seal it."""
    with zipfile.ZipFile(archive) as source:
        members = {name: source.read(name) for name in source.namelist()}
    change(members)
    with zipfile.ZipFile(file, "w", options.get("compression", zipfile.ZIP_STORED)) as target:
        for name, data in members.items():
            target.writestr(name, data)
    seal(file)
    return file


def test_archives_made_to_do_harm_are_refused(archive: Path, tmp_path: Path) -> None:
    def refused(change: Callable[[dict[str, bytes]], None], message: str, **options: int) -> None:
        file = crafted(archive, tmp_path / "crafted.zip", change, **options)
        with pytest.raises(UserError, match=message) as caught:
            masksup.load(file)
        assert str(caught.value).startswith(str(file))
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["crafted.zip"], "nothing is extracted"

    masksup.load(crafted(archive, tmp_path / "crafted.zip", lambda members: None))
    refused(lambda m: m.update({"../evil": b"x"}), "found '../evil'")
    refused(lambda m: m.update({"/tmp/evil": b"x"}), "found '/tmp/evil'")
    refused(lambda m: m.pop("decisions.json"), r"found no decisions\.json")
    refused(lambda m: None, "compressed", compression=zipfile.ZIP_DEFLATED)
    refused(lambda m: m.update({"README.md": b"better"}), r"README\.md: damaged")
    refused(lambda m: m.update({WEIGHTS: m[WEIGHTS][:-4] + b"abcd"}), r"weights\.safetensors: damaged")
    refused(lambda m: m.update({MANIFEST: b"[]"}), "expected an object")
    refused(lambda m: m.update({MANIFEST: b"{"}), "not JSON")
    refused(lambda m: m.update({MANIFEST: m[MANIFEST].replace(b"archive 1", b"archive 9")}), "archive 9")

    def other_classes(members: dict[str, bytes]) -> None:
        """Sums and all fit; what is inside does not."""
        facts = json.loads(members["model.json"])
        facts["classes"][0] = "other"
        members["model.json"] = json.dumps(facts).encode()
        manifest = json.loads(members[MANIFEST])
        data = members["model.json"]
        manifest["files"]["model.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        members[MANIFEST] = json.dumps(manifest).encode()

    refused(other_classes, r"decisions\.json: is of another model")


def test_wrong_places(run: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "ends in .zip" in one_line(["pack", str(run), "--out", str(tmp_path / "model.tar")], capsys)
    assert "cannot be written to" in one_line(["pack", str(run), "--out", str(tmp_path / "none" / "m.zip")], capsys)
    assert "is not in a run folder" in one_line(["calibrate", str(archive)], capsys)
    text = tmp_path / "text.zip"
    text.write_text("no archive")
    assert "found another kind of file" in one_line(["eval", str(text)], capsys)
    assert list(tmp_path.iterdir()) == [text]


@pytest.mark.parametrize(
    ("name", "content"),
    [("result.json", "{"), ("result.json", "[]"), ("result.json", '{"best": 5}'), ("calibration.json", "\x00")],
)
def test_damaged_facts_are_refused_instead_of_left_out(
    name: str, content: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    (copy / name).write_text(content)
    assert main(["pack", str(copy), "--out", str(tmp_path / "model.zip")]) == 2
    told = capsys.readouterr().err
    assert re.fullmatch(rf"masksup: .*{re.escape(name)}.*(damaged|found a list).*\n", told), told
    assert not (tmp_path / "model.zip").exists()


def test_a_checkpoint_is_named_instead_of_the_best(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    best, latest = ((copy / "checkpoints" / link).resolve() for link in ("best", "latest"))
    assert best != latest
    (best / "state.safetensors").write_bytes(b"junk")
    pack = ["pack", str(copy), "--out", str(tmp_path / "model.zip")]
    for command in (["eval", str(copy)], pack):
        assert main(command) == 2
        assert f"name another one with --checkpoint: {latest.name}" in capsys.readouterr().err
    assert main([*pack, "--checkpoint", "step-000000001-a07"]) == 2
    assert "found step-000000001-a07, expected best, latest or" in capsys.readouterr().err
    assert main([*pack, "--checkpoint", latest.name]) == 0
    assert read_packed(tmp_path / "model.zip").checkpoint == f"run/{latest.name}"
