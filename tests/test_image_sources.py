"""What `predict` takes for an image: files, folders, globs, addresses, lists; and what it leaves out."""

import csv
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

import masksup
from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.decode_pil import BrokenImage
from masksup.data.index import open_index
from masksup.data.url import Url, read_source
from masksup.errors import UserError
from masksup.output.image_files import find_images
from masksup.training.train import train


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("masksup")
    before, logger.propagate = logger.propagate, True
    yield caplog
    logger.propagate = before


def picture(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file


def test_what_macos_and_others_leave_in_a_folder_is_counted(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    a = picture(tmp_path / "a.png")
    for name in ("._a.png", ".thumbs/b.png", ".git/deep/c.png"):
        picture(tmp_path / name)
    for name in ("notes.txt", "sub/model.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert find_images([str(tmp_path)]) == [a]
    assert "left out 3 hidden files, such as ._a.png" in said.text
    assert "left out 2 files without the ending of an image, such as notes.txt" in said.text


def test_a_glob_leaves_out_what_is_no_image(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    a = picture(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("x")
    picture(tmp_path / "._a.png")
    assert find_images([f"{tmp_path}/*"]) == [a]
    assert "left out 1 file without the ending of an image" in said.text
    odd = picture(tmp_path / "scan.dat")
    assert find_images([f"{tmp_path}/*.dat"]) == [odd], "who asks for an ending wants it"


def test_files_that_a_shell_named_are_left_out_if_they_are_no_images(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    a, scan = picture(tmp_path / "a.png"), picture(tmp_path / "scan")
    text = tmp_path / "notes.txt"
    text.write_text("x")
    broken = tmp_path / "broken.png"
    broken.write_text("x")
    assert find_images(map(str, (a, broken, text, scan))) == [a, broken, scan]
    assert f"left out 1 file that is no image, such as {text}" in said.text
    assert find_images([str(text)]) == [text], "which is then named as an error"


def test_a_list_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "with blank.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{b}\n\n{a}\r\nhttps://x.org/c.jpg\n{a}\n"))
    assert find_images(["-"]) == [b, a, Url("https://x.org/c.jpg")]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(UserError, match="-: found nothing on standard input"):
        find_images(["-"])


def test_an_address_is_fetched_or_named(site: tuple[Path, str]) -> None:
    folder, address = site
    data = picture(folder / "ein löwe.png").read_bytes()
    for name in ("ein%20l%C3%B6we.png", "ein löwe.png"):
        url = Url(f"{address}/{name}?size=large")
        assert read_source(url) == data
        assert (url.name, url.stem) == ("ein löwe.png", "ein löwe")
    with pytest.raises(BrokenImage, match=r"/none\.png: found the answer 404"):
        read_source(Url(f"{address}/none.png"))
    for wrong in ("http://127.0.0.1:9/a.png", "http://[", "http://no such host.invalid/a.png", "http://"):
        with pytest.raises(BrokenImage, match="cannot be fetched"):
            read_source(Url(wrong))


def test_a_photograph_has_the_same_scores_from_an_address(
    site: tuple[Path, str], tiny_config: Callable[..., Config], tiny_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, address = site
    run = tmp_path / "run"
    assert train(tiny_config(epochs=1, eval__bootstrap=0), run) == 0
    file = open_index(tiny_data / "test").path(0)
    (folder / "a.png").write_bytes(file.read_bytes())
    url = f"{address}/a.png"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{file}\n{url}\n{address}/gone.png\n"))
    capsys.readouterr()
    out = tmp_path / "scores.csv"
    assert main(["predict", str(run), "-", "--out", str(out), "--pictures", str(tmp_path / "drawn")]) == 2
    printed = capsys.readouterr()
    assert f"{url} prediction: " in printed.out
    assert "gone.png: found the answer 404" in printed.err
    rows = list(csv.reader(out.open()))[1:]
    assert [row[0] for row in rows] == [str(file), url]
    assert rows[0][1:] == rows[1][1:]
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 2
    first, second = masksup.load(run).predict([file, url])
    assert first.probabilities == second.probabilities
