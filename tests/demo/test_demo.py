"""The demo: what it computes, what it refuses, and the page it serves where NiceGUI is installed."""

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masksup.cli import main
from masksup.config import Config
from masksup.data.index import open_index
from masksup.data.pillow import BrokenImage
from masksup.deciding import decisions_for
from masksup.decisions import default_decisions, write_decisions
from masksup.demo.labelling import Labeller
from masksup.train import train
from masksup.trained import open_trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Config]) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert train(tiny_config(epochs=1, model__size=64, method={"name": "mcar", "top": 2}), folder) == 0
    return folder


def test_a_picture_has_the_scores_of_predict_and_a_map_of_each_class(
    run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    photo = open_index(tiny_data / "test").path(0)
    trained = open_trained(run)
    labeller = Labeller(trained, decisions_for(trained))
    found = labeller.label("a.jpg", photo.read_bytes())
    out = tmp_path / "scores.json"
    assert main(["predict", str(run), str(photo), "--out", str(out)]) == 0
    scores = json.loads(out.read_text())["images"][0]["scores"]
    np.testing.assert_allclose(found.scores_C, list(scores.values()), atol=1e-12)
    plain = np.asarray(found.photo)
    assert (np.asarray(found.shown(0)) != plain).any()
    assert found.shown(0).size == found.photo.size
    assert [region.name in trained.classes for region in found.regions] == [True, True]
    rows = found.rows([0.0] * 12)
    assert sorted(rows) == list(range(12))
    assert len(found.rows([1.0] * 12)) == 5
    assert found.scores_C[rows[0]] == found.scores_C.max()
    with pytest.raises(BrokenImage, match=r"notes\.txt: found no readable image"):
        labeller.label("notes.txt", b"not an image")
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 20)).save(turned, "PNG", exif=exif)
    assert labeller.label("turned.png", turned.getvalue()).photo.size == (20, 60)


@pytest.mark.parametrize("port", ["0", "70000", "taken"])
def test_a_port_that_cannot_be_had_is_one_line(port: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nicegui")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1]) if port == "taken" else port
        assert main(["demo", str(run), "--port", number]) == 2
    err = capsys.readouterr().err
    assert "--port" in err
    assert err.count("\n") == 1


def test_without_the_library_it_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("masksup.demo.command.importlib.util.find_spec", lambda name: None)
    assert main(["demo", str(run)]) == 2
    assert capsys.readouterr().err == (
        "masksup: masksup demo needs NiceGUI, which is not installed: pip install 'masksup[demo]'\n"
    )


def test_the_page_is_served_on_this_machine_alone_with_the_thresholds_of_the_run(run: Path) -> None:
    pytest.importorskip("nicegui")
    trained = open_trained(run)
    write_decisions(run, default_decisions(trained.classes, 0.5).with_given({"ring": 0.375}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "masksup", "demo", str(run), "--port", str(port)]
    # NiceGUI behaves otherwise where it sees this variable.
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        page = fetch(f"http://127.0.0.1:{port}/", server)
        assert all(name in page for name in trained.classes)
        assert "0.375" in page
        assert "https://" not in page
        others = [a[4][0] for a in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)]
        for address in {a for a in others if not a.startswith("127.")}:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((address, port), timeout=5).close()
    finally:
        server.terminate()
        server.wait(30)


def fetch(address: str, server: "subprocess.Popen[str]") -> str:
    end = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            assert server.poll() is None, server.stdout and server.stdout.read()
            assert time.monotonic() < end, "the page was not served"
            time.sleep(0.3)
