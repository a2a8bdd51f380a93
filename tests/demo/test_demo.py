"""The demo: what it computes, what it refuses, and the page it serves where NiceGUI is installed."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.decode_pil import BrokenImage
from masksup.data.index import open_index
from masksup.decisions.decisions import default_decisions, write_decisions
from masksup.demo.labelling import Labeller
from masksup.saved.decisions_of import decisions_for
from masksup.saved.open import open_trained
from masksup.training.train import train

if TYPE_CHECKING:
    from chromium import Tab


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
    monkeypatch.setattr("masksup.commands.demo.importlib.util.find_spec", lambda name: None)
    assert main(["demo", str(run)]) == 2
    assert capsys.readouterr().err == (
        "masksup: masksup demo needs NiceGUI, which is not installed: pip install 'masksup[demo]'\n"
    )


def test_the_page_is_served_on_this_machine_alone_with_the_thresholds_of_the_run(run: Path) -> None:
    pytest.importorskip("nicegui")
    trained = open_trained(run)
    write_decisions(run, default_decisions(trained.classes, 0.5).with_given({"ring": 0.375}))
    with served(run) as (address, _):
        page = fetch(f"{address}/")
        assert all(name in page for name in trained.classes)
        assert "0.375" in page
        assert "https://" not in page
        port = int(address.rpartition(":")[2])
        others = [a[4][0] for a in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)]
        for other in {a for a in others if not a.startswith("127.")}:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((other, port), timeout=5).close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200), ({"Host": "localhost:9000"}, 200), ({"Host": "127.0.0.1"}, 200),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
        ({"Host": "evil.example"}, 403), ({"Host": "evil.example:80"}, 403), ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403), ({"Host": ""}, 403), ({"Host": "[::1"}, 403),
        ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
        ({"Host": "localhost:9000", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost:9000", "Origin": "https://localhost:9000"}, 403),
    ],
)  # fmt: skip
def test_only_pages_of_this_server_may_ask_it(shared_server: str, headers: dict[str, str], status: int) -> None:
    place = shared_server.removeprefix("http://")
    for path in ("/", "/_nicegui_ws/socket.io/?EIO=4&transport=polling&client_id=x"):
        connection = http.client.HTTPConnection(place, timeout=30)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        assert (answer.status == 403) == (status == 403), (path, answer.status)
        answer.read()
        connection.close()


def test_a_socket_of_another_page_is_refused(shared_server: str) -> None:
    websockets = pytest.importorskip("websockets.sync.client")
    address = shared_server.replace("http", "ws") + "/_nicegui_ws/socket.io/?EIO=4&transport=websocket&client_id=x"
    with websockets.connect(address, origin=shared_server) as own:
        assert str(own.recv(timeout=30)).startswith("0")
    with pytest.raises(Exception, match="403"), websockets.connect(address, origin="http://evil.example"):
        pass


@pytest.mark.slow
def test_what_is_too_large_is_refused_before_it_is_read_and_a_page_holds_a_hundred_pictures(
    run: Path, tiny_data: Path
) -> None:
    photo = open_index(tiny_data / "test").path(0).read_bytes()
    with served(run) as (address, log):
        upload = re.findall(r"/_nicegui/client/[^\"']+/upload/\d+", fetch(f"{address}/"))[0]
        assert send(address, upload, b"x" * 10)[0] == 200
        free = memory(address)
        status, said = send(address, upload, b"", claimed=2**30)
        assert (status, said) == (413, b"at most 68,157,440 bytes, and their number\n")
        assert send(address, upload, b"", claimed=None)[0] == 411
        for _ in range(1000):
            assert send(address, upload, photo)[0] == 200
        assert memory(address) - free < 300 * 2**20
        assert "Traceback" not in log.read_text(), log.read_text()


def send(address: str, path: str, content: bytes, claimed: int | None = 0) -> tuple[int, bytes]:
    """Upload one file as a browser does; `claimed`: the length in the header where it is not the true one."""
    head = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = head + content + b"\r\n--X--\r\n"
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "multipart/form-data; boundary=X")
    if claimed is None:
        connection.putheader("Transfer-Encoding", "chunked")
    else:
        connection.putheader("Content-Length", str(claimed or len(body)))
    connection.endheaders()
    if claimed == 0:
        connection.send(body)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def memory(address: str) -> int:
    """Bytes in use by the process that listens at an address."""
    return int((process_at(address) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def process_at(address: str) -> Path:
    port = int(address.rpartition(":")[2])
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"--port\0{port}" in (process / "cmdline").read_text():
                return process
    raise AssertionError("no demo listens there")


# Notes each progress that the page shows. A few small pictures may be labelled between two looks from outside.
WATCH_PROGRESS = r"""
    window.shown = [];
    new MutationObserver(() => {
        const visible = document.querySelector('[role=progressbar]')?.checkVisibility();
        if (visible) shown.push(...(document.body.innerText.match(/Labelling: \d+ of \d+ files? done/g) ?? []));
    }).observe(document.body, {subtree: true, childList: true, characterData: true, attributes: true});
"""


@pytest.mark.browser
def test_the_page_tells_how_far_it_is_what_it_cannot_read_and_may_be_closed(
    run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    from chromium import opened

    index = open_index(tiny_data / "test")
    photos = [index.path(i) for i in range(12)]
    (tmp_path / "notes.txt").write_text("no picture")
    with (tmp_path / "huge photograph.jpg").open("wb") as huge:
        huge.truncate(65 * 2**20)
    with served(run) as (address, log):
        with opened(f"{address}/", tmp_path / "one") as tab:
            tab.wait_for(lambda: "Drop pictures here" in tab.text())
            tab.run(WATCH_PROGRESS)
            tab.give([*photos[:5], tmp_path / "notes.txt", tmp_path / "huge photograph.jpg"])

            def finished() -> bool:
                text = tab.text()
                return all(photo.name in text for photo in photos[:5]) and "Labelling" not in text

            tab.wait_for(finished)
            assert tab.run("shown.length > 0"), "no progress was shown"
            assert "notes.txt: found no readable image, expected JPEG" in tab.text()
            assert "huge photograph.jpg: larger than 64 MB" in tab.text()
            assert [_brightness(tab, mode) > 128 for mode in ("light", "dark")] == [True, False]
            tab.give(photos[5:])
            tab.wait_for(lambda: "Labelling" in tab.text() or photos[5].name in tab.text())
        time.sleep(8)  # the server waits for a page to come back, then forgets it
        assert fetch(f"{address}/")
        with opened(f"{address}/", tmp_path / "two") as tab:
            tab.wait_for(lambda: "Drop pictures here" in tab.text())
            tab.run(WATCH_PROGRESS)
            tab.give(photos)
            tab.wait_for(lambda: bool(tab.run("shown.length > 0")))
            demo = process_at(address)
            os.kill(int(demo.name), signal.SIGINT)
            tab.wait_for(lambda: "State:\tZ" in (demo / "status").read_text())
        assert "Traceback" not in log.read_text(), log.read_text()


def _brightness(tab: "Tab", mode: str) -> float:
    """Of the page's paper, 0 to 255, in a browser that prefers this mode."""
    tab("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": mode}])
    wanted = str(mode == "dark").lower()
    tab.wait_for(lambda: tab.run("String(document.body.classList.contains('body--dark'))") == wanted)
    colour = tab.run("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.fixture(scope="module")
def shared_server(run: Path) -> Iterator[str]:
    with served(run) as (address, _):
        yield address


@contextmanager
def served(run: Path) -> Iterator[tuple[str, Path]]:
    """The demo in a process of its own: its address, and the file of what it says."""
    pytest.importorskip("nicegui")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "masksup", "demo", str(run), "--port", str(port)]
    # NiceGUI behaves otherwise where it sees this variable.
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    log = run.parent / f"demo-{port}.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_for_server(f"http://127.0.0.1:{port}/", server, log)
        yield f"http://127.0.0.1:{port}", log
    finally:
        server.terminate()
        server.wait(30)


def wait_for_server(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            fetch(address)
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, "the page was not served"
            time.sleep(0.3)


def fetch(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return str(answer.read().decode())
