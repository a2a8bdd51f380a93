"""Pages and docstrings call the tools as modules, and each tool that they name can be called so."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", ROOT / "docs/notebook.ipynb"]
PAGES += [path for folder in ("docs", "configs", ".ci") for path in (ROOT / folder).rglob("*") if path.is_file()]
PAGES += [path for folder in ("masksup", "launch", "tools") for path in (ROOT / folder).rglob("*.py")]
TEXTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in PAGES
    if path.suffix in ("", ".md", ".py", ".ipynb", ".yaml", ".yml")
}


def test_no_page_calls_a_tool_by_its_file() -> None:
    """A file is run without the checkout on Python's path, so what it imports from `tools` is not found."""
    wrong = r"python3? +(?:-\S+ +)*(?!-m\b)\S*tools/\w+\.py"
    assert re.search(wrong, "run `.venv/bin/python tools/goodput.py`")
    assert [(name, found[0]) for name, text in TEXTS.items() if (found := re.search(wrong, text))] == []


def test_a_tool_that_is_named_can_be_called() -> None:
    named = {name for text in TEXTS.values() for name in re.findall(r"-m +tools\.([\w.]*\w)", text)}
    assert len(named) > 20
    for name in named:
        file = ROOT / "tools" / f"{name.replace('.', '/')}.py"
        assert file.is_file(), name
        (last, *_) = reversed(ast.parse(file.read_text(encoding="utf-8")).body)
        assert ast.unparse(last).startswith("if __name__ == '__main__':"), f"tools/{name}.py has no main"
        assert "ArgumentParser(" in file.read_text(encoding="utf-8"), f"tools.{name} does not answer --help"
