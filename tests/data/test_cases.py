"""Annotations as people have them, a folder a case (`cases/README.md`), each read by the command that it names."""

import re
import shlex
import shutil
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from masksup.commands.prepare import add_arguments, read
from masksup.errors import UserError

CASES = Path(__file__).parent / "cases"
NAMES = sorted(file.parent.relative_to(CASES).as_posix() for file in CASES.rglob("expected.yaml"))
COMMANDS = ArgumentParser()
add_arguments(COMMANDS)
SPOKEN = {"command", "images", "labels", "classes", "says", "refused"}


def draw(file: Path, number: int, rule: str | None) -> None:
    """As `cases/README.md` says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if rule and rule.startswith("as "):
        number, rule = int(rule.removeprefix("as ")), None
    image = Image.new("RGB", (20 if rule and "square" in rule else 40, 20), (40 * number, 200, 0))
    if rule and ":" in rule:
        values = np.linspace(*map(float, rule.split(":")), 800).reshape(20, 40)
        image = Image.fromarray(values.astype(np.float32 if "." in rule else np.int32))
        image = image.convert("I;16") if file.suffix == ".png" else image
    elif rule:
        exif[0x0112] = int(rule.removeprefix("square ").removeprefix("turn "))
    image.save(file, exif=exif)


def laid_out(case: Path, expected: dict[str, Any], root: Path) -> None:
    """The files of the case, with their images, below `root`, which they call ROOT."""
    shutil.copytree(case, root, ignore=shutil.ignore_patterns("expected.yaml"))
    for file in [path for path in root.rglob("*") if path.is_file()]:
        file.write_bytes(file.read_bytes().replace(b"ROOT", str(root).encode()))
    labelled = [name for rows in expected.get("labels", {}).values() for name in rows]
    images = expected.get("images", labelled)
    for number, name in enumerate(images):
        draw(root / name, number, images[name] if isinstance(images, dict) else None)


@pytest.mark.parametrize("name", NAMES)
def test_a_case_means_what_it_says(tmp_path: Path, name: str) -> None:
    expected, root = yaml.safe_load((CASES / name / "expected.yaml").read_text("utf-8")), tmp_path / "photos"
    laid_out(CASES / name, expected, root)
    words = shlex.split(expected["command"])
    assert words[:2] == ["masksup", "prepare"]
    args = COMMANDS.parse_args([*words[2:], "--root", str(root), "--out", str(tmp_path / "out")])
    if "refused" in expected:
        with pytest.raises(UserError, match=expected["refused"]) as caught:
            read(args)
        assert "\n" not in str(caught.value)
        return
    contents = read(args)
    found = {one.split: dict(zip(one.image_names, one.labels_NC.tolist())) for one in contents}
    assert (list(contents[0].classes), found) == (expected["classes"], expected["labels"])
    said = "\n".join(line for one in contents for line in one.warnings)
    assert re.search(expected["says"], said) if "says" in expected else not said, said
    for column in expected.keys() - SPOKEN:
        assert np.array(getattr(contents[0], column)).tolist() == expected[column], column
