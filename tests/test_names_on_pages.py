"""Names of classes, runs, data and files are text wherever they are shown: they make no tag, link or code."""

import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from masksup.base.log import log, start_logging
from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.shapes import prepare_shapes
from masksup.data.write_index import write_index
from masksup.training.train import train

EVIL = (
    "</td></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`|*_~~a~~[x](javascript:alert(3))&lt;b&gt;"
)
RUN = "<img src=x onerror=alert(4)>\"'&|*_`"


class Seen(HTMLParser):
    """The tags of a page with the names of their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[tuple[str, ...]] = Counter()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag, *(name for name, _ in attrs)] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


Made = tuple[Path, tuple[str, ...]]


@pytest.fixture(scope="module")
def runs(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    """The same training with plain names and with hostile ones, and the names of their classes."""
    made: list[Made] = []
    for name, letter, extra in (("plain", "c", ""), (RUN, EVIL, EVIL)):
        folder = tmp_path_factory.mktemp("names")
        for content in prepare_shapes(folder / "root", train=50, val=20, test=20, size=48, seed=3):
            classes = tuple(f"{letter}{number:02}" for number in range(len(content.classes)))
            write_index(folder / content.split, replace(content, classes=classes, name=content.name + extra))
        config = tiny_config(
            epochs=1, data__train=str(folder / "train"), data__eval=str(folder / "val"), eval__bootstrap=0
        )
        assert train(config, folder / name) == 0
        made.append((folder / name, classes))
    return made[0], made[1]


def test_a_report_has_the_same_tags_whatever_the_names_are(runs: tuple[Made, Made], tmp_path: Path) -> None:
    pages = []
    for number, (run, classes) in enumerate(runs):
        assert main(["report", str(run), "--out", str(tmp_path / f"{number}.html")]) == 0
        page = Seen((tmp_path / f"{number}.html").read_text(encoding="utf-8"))
        assert all(name in page.text for name in classes)
        assert run.name in page.text
        for ticks in [tag for tag in page.tags if tag[0] in ("text", "line")]:
            page.tags[ticks] = 1  # as many as the axis of the images/s, which differ, has need of
        pages.append(page)
    assert pages[0].tags == pages[1].tags


def test_a_model_card_has_the_same_tags_whatever_the_names_are(runs: tuple[Made, Made], tmp_path: Path) -> None:
    pages = []
    for number, (run, classes) in enumerate(runs):
        assert main(["pack", str(run), "--out", str(tmp_path / f"{number}.zip")]) == 0
        with zipfile.ZipFile(tmp_path / f"{number}.zip") as archive:
            card = archive.read("README.md").decode()
        page = Seen(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(card))
        assert all(name in page.text for name in classes), page.text
        pages.append(page)
    assert pages[0].tags == pages[1].tags


@pytest.mark.slow
def test_the_page_of_the_demo_makes_no_tag_of_a_name(runs: tuple[Made, Made]) -> None:
    pytest.importorskip("nicegui")
    from demo.test_demo import served

    pages = []
    for run, _ in runs:
        with served(run) as (address, _), urllib.request.urlopen(address, timeout=60) as answer:
            pages.append(Seen(answer.read().decode()))
    assert pages[0].tags == pages[1].tags


def test_curves_are_found_by_the_names_as_they_are(runs: tuple[Made, Made]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tags = []
    for run, classes in runs:
        events = accumulator.EventAccumulator(str(next(run.rglob("events.*")).parent))
        events.Reload()
        found = events.Tags()["scalars"]
        tags.append([tag.removeprefix("AP/") in classes if tag.startswith("AP/") else tag for tag in found])
    assert tags[0] == tags[1]
    assert True in tags[0]
    assert False not in tags[1]


def test_no_name_speaks_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\x07\x9b\ud800.jpg"
    start_logging(tmp_path / "rank0.log")
    log.warning(f"{name}: found no readable image")
    assert main(["eval", str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert r"a\x1b[2J\x07\x9b\ud800.jpg" in text
        assert text.replace("\n", "").isprintable()
    assert r"\ud800.jpg: found no readable image" in (tmp_path / "rank0.log").read_text()
