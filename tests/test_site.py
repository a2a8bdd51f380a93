"""docs/ as a site: it is built without a warning, and every link in its pages leads to something on it."""

import logging
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "docs" / "site" / "mkdocs.yml"


class Links(HTMLParser):
    """What a page links to and shows, and the places in it that can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for key, value in attrs if key in ("href", "src") and value is not None]
        self.places |= {value for key, value in attrs if key == "id" and value is not None}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'masksup[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("docs") / "site"
    config = load_config(str(SETTINGS), site_dir=str(folder), strict=True)
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        build(config)
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    assert told == []
    return folder


def test_every_link_leads_to_a_page_a_place_or_a_file_of_the_site(site: Path) -> None:
    pages = {page: Links(page) for page in site.glob("*.html") if page.name != "404.html"}
    assert len(pages) > 20
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                assert parts.scheme in ("https", "mailto", "data"), target
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert file.exists(), f"{page.name}: {target}"
            if parts.fragment and file in pages:
                assert unquote(parts.fragment) in pages[file].places | {"__skip"}, f"{page.name}: {target}"


def test_every_page_stands_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    for document in [*(ROOT / "docs").glob("*.md"), Path("contributing.md"), Path("slurm.md"), Path("changelog.md")]:
        assert f'href="{document.stem}.html"' in home, document.name


def test_what_lies_outside_docs_is_on_the_site(site: Path) -> None:
    assert "Apache License" in (site / "source" / "LICENSE").read_text(encoding="utf-8")
    assert "Five lines of Python" in (site / "index.html").read_text(encoding="utf-8")
    assert 'href="slurm.html"' in (site / "cluster.html").read_text(encoding="utf-8")


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text, page.name
        assert "fonts.googleapis.com" not in text, page.name
