"""Run a notebook and keep what its cells give, without Jupyter: `python -m tools.run_notebook docs/notebook.ipynb`.

Cells are plain Python. What they print, and the value of a last line that is an expression without a semicolon, become
outputs as nbformat 4 has them; files in the current folder are shown without it. A cell that fails ends the run, and
the file stays as it was.
"""

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from masksup.base.files import as_json, write_atomically

_PICTURES = {"image/png": "_repr_png_", "image/svg+xml": "_repr_svg_"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="NOTEBOOK.ipynb")
    file = parser.parse_args().file.resolve()
    notebook = json.loads(file.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        execute(notebook)
    write_atomically(file, as_json(notebook, indent=1, ensure_ascii=False) + "\n")


def execute(notebook: dict[str, Any]) -> None:
    """Run its code cells in the current folder, in one namespace, and put their outputs into it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    os.environ.setdefault("COLUMNS", "120")  # of tables
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        cell["execution_count"] = number
        cell["outputs"] = _run("".join(cell["source"]), f"cell {number}", names)


def _run(source: str, called: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(source, called)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, called, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), called, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue().replace(f"{Path.cwd()}/", ""):
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(text)})
    if value is not None and not source.rstrip().endswith(";"):
        outputs.append({"output_type": "display_data", "metadata": {}, "data": _shown(value)})
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    """A value as notebooks show it: as a picture where it is one, and as text."""
    shown: dict[str, Any] = {}
    for kind, method in _PICTURES.items():
        if hasattr(value, method):
            content = getattr(value, method)()
            shown[kind] = base64.b64encode(content).decode() if isinstance(content, bytes) else _lines(content)
    return shown | {"text/plain": [f"<{type(value).__name__}>"] if shown else _lines(repr(value))}


def _lines(text: str) -> list[str]:
    return [line.rstrip() + "\n" * line.endswith("\n") for line in text.splitlines(keepends=True)]


if __name__ == "__main__":
    main()
