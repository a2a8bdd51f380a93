"""The notebook runs, and its outputs are those of its cells."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tools.run_notebook import execute

ROOT = Path(__file__).resolve().parents[1]
SHORT = "IMAGES, EPOCHS = 40, 2"


def read() -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    return notebook


def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(cell: dict[str, Any]) -> list[tuple[str, ...]]:
    """What its outputs are; of text the first word, since numbers differ from machine to machine."""
    found = []
    for output in cell["outputs"]:
        text = "".join(output.get("text") or output["data"]["text/plain"])
        found.append(
            (
                output["output_type"],
                *sorted(output.get("data", {})),
                re.sub(r"\d+|[\s:].*", "", text.strip(), flags=re.S),
            )
        )
    return found


def lines(cell: dict[str, Any]) -> list[int]:
    """How many each output has, but for the hint that depends on how busy the machine is."""
    texts = ["".join(output.get("text", [])) for output in cell["outputs"]]
    return [len([line for line in text.splitlines() if "masksup doctor" not in line]) for text in texts]


def executed(place: Path, monkeypatch: pytest.MonkeyPatch, *, short: bool) -> dict[str, Any]:
    notebook = read()
    first = code(notebook)[0]
    source = "".join(first["source"])
    if short:
        source, changed = re.subn(r"^IMAGES, EPOCHS = .*$", SHORT, source, flags=re.MULTILINE)
        assert changed == 1
    first["source"] = [source]
    monkeypatch.chdir(place)
    execute(notebook)
    return notebook


def test_it_is_a_notebook_with_outputs() -> None:
    notebook = read()
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert [cell["execution_count"] for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    text = json.dumps(notebook)
    assert "/tmp" not in text
    assert {"image/png", "image/svg+xml"} <= {
        kind for cell in code(notebook) for found in kinds(cell) for kind in found
    }


def test_it_runs_with_fewer_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short form of the next test."""
    short = executed(tmp_path, monkeypatch, short=True)
    assert [kinds(cell) for cell in code(short)] == [kinds(cell) for cell in code(read())]


@pytest.mark.slow
def test_it_runs_as_it_stands_and_gives_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = executed(tmp_path, monkeypatch, short=False)
    assert [kinds(cell) for cell in code(whole)] == [kinds(cell) for cell in code(read())]
    assert [lines(cell) for cell in code(whole)] == [lines(cell) for cell in code(read())]
