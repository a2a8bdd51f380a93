"""A hook of mkdocs: links in the pages are those of the code host; what they name outside docs/ is on the site, too.

`[text](../slurm/README.md)` in a page of docs/ leads to that file on the code host. Here it leads to a page made of the
file, or, where it is no page, to a copy of it below `source/`.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
    "slurm/README.md": "slurm.md",
}  # fmt: skip
ORIGINS = {page: origin for origin, page in PAGES.items()}
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^( *```.*?^ *```)", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the navigation does not name at its end, so that a new page can be found."""
    named = str(config.nav)
    pages = sorted(path.name for path in Path(config.docs_dir).glob("*.md"))
    config.nav = [*(config.nav or []), *(page for page in pages if f"'{page}'" not in named)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and the files that any page names."""
    for origin, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / origin)))
    named = {
        target
        for file in files.documentation_pages()
        for target in _targets((ROOT / _origin(file.src_uri)).read_text(encoding="utf-8"), _origin(file.src_uri))
    }
    for target in sorted(named):
        if _place(target) == f"source/{target}":
            files.append(File.generated(config, _place(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn each link to where the site has its file."""
    here, folder = _origin(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        return link[1] + posixpath.relpath(_place(_resolved(link[2], here)), folder or ".") + link[3]

    return _outside_code(markdown, lambda text: _LINK.sub(lambda m: m[0] if _elsewhere(m[2]) else turned(m), text))


def _targets(text: str, here: str) -> Iterator[str]:
    found: list[str] = []
    _outside_code(text, lambda part: found.extend(match[2] for match in _LINK.finditer(part)) or part)
    return (_resolved(link, here) for link in found if not _elsewhere(link))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if number % 2 else change(part) for number, part in enumerate(_FENCE.split(text)))


def _elsewhere(link: str) -> bool:
    return "://" in link or link.startswith("mailto:")


def _origin(page: str) -> str:
    """The file of the repository that a page of the site is made of."""
    return ORIGINS.get(page, f"docs/{page}")


def _resolved(link: str, here: str) -> str:
    """The file of the repository that a link in the file `here` names."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), link))


def _place(target: str) -> str:
    """Where the site has a file of the repository."""
    if target in PAGES:
        return PAGES[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else f"source/{target}"
