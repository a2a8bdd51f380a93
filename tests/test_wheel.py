"""A wheel holds all that an installed program needs, with no checkout beside it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("masksup", "launch", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel is unpacked."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    zipfile.ZipFile(next((source / "dist").glob("*.whl"))).extractall(place)
    return place


def test_every_file_of_the_packages_is_in_the_wheel(installed: Path) -> None:
    for package in ("masksup", "launch", "configs"):
        target = installed / ("masksup/configs" if package == "configs" else package)
        files = {f.relative_to(ROOT / package) for f in (ROOT / package).rglob("*") if f.is_file()}
        wanted = {file for file in files if "__pycache__" not in file.parts}
        assert wanted
        assert {str(file) for file in wanted if not (target / file).is_file()} == set()


def test_an_installed_program_lists_its_recipes_and_reads_them(installed: Path, tmp_path: Path) -> None:
    def masksup(*words: str) -> str:
        command = [sys.executable, "-P", "-m", "masksup", *words]
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    rows = json.loads(masksup("recipes", "--data", "voc2007", "--method", "mcar", "--json"))
    assert rows
    assert all(Path(row["file"]).is_relative_to(installed) for row in rows)
    assert "method.name" in masksup("train", "--print-config", rows[0]["file"]).replace(
        "method:\n  name", "method.name"
    )
