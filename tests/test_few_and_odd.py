"""Too little to fit to, sizes that cut patches, files that are no weights: each is said, and nothing is written."""

import ast
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import launch
import masksup
from masksup.base.words import counted, figure, kind_of
from masksup.cli import main
from masksup.config.schema import Config
from masksup.errors import UserError
from masksup.models.backbones import build_backbone
from masksup.models.weight_files import read_file
from masksup.training.train import train


def test_few_images_are_said_and_too_few_are_refused(
    tiny_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    run = tmp_path / "run"
    assert train(tiny_config(epochs=1), run) == 0
    assert main(["calibrate", str(run), "--min-positives", "5000", "--folds", "999"]) == 2
    err = capsys.readouterr().err
    assert "too few to fit a threshold to; expected at least 5000 (--min-positives)" in err
    assert not (run / "decisions.json").exists()
    assert main(["calibrate", str(run), "--bootstrap", "20", "--folds", "3", "--min-positives", "20"]) == 0
    assert "20 samples are few: with others of this kind the shared threshold" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(("size", "fits"), [(230, "224 or 240"), (7, "16"), (48, None)])
def test_patches_fill_the_image(size: int, fits: str | None) -> None:
    if fits is None:
        assert build_backbone("test_vit", size, grad_checkpointing=False, options={}).grid == 3
        return
    with pytest.raises(UserError, match=rf"model\.size: found {size}, .*16 px wide; expected {fits}$"):
        build_backbone("test_vit", size, grad_checkpointing=False, options={})


@pytest.mark.parametrize("text", ["name: x\n", "epochs, loss\n", "101", "{}", "hello"])
def test_a_text_is_no_torch_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text(text)
    with pytest.raises(UserError, match=r"found no torch file, expected one as torch\.save|not read, it is broken"):
        read_file(tmp_path / "w.pth")


def test_figures_have_no_exponent() -> None:
    assert [figure(x) for x in (0.1234, 45.67, 1171.2, 0.0, 123456.0)] == ["0.123", "45.7", "1,170", "0", "123,000"]
    assert [kind_of(x) for x in (None, {}, [], "a", 3, True)] == [
        "nothing", "mapping", "list", "text", "number", "true or false"
    ]  # fmt: skip


def test_a_number_that_is_shown_has_its_plural_from_counted() -> None:
    """No message says "1 images"."""
    told = [counted(n, thing) for n, thing in ((0, "class"), (1, "box"), (1200, "batch"), (2, "core"), (3, "epoch"))]
    assert told == [
        "0 classes", "1 box", "1,200 batches", "2 cores", "3 epochs",
    ]  # fmt: skip
    nouns = "images|samples|classes|boxes|files|rows|columns|lines|runs|starts|settings|threads|tensors|parameters"
    plural = re.compile(rf" (other |more |broken )?({nouns})\b(?!/)")
    found = []
    for file in (file for package in (masksup, launch) for file in Path(package.__path__[0]).rglob("*.py")):
        for text in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.JoinedStr)):
            pairs = [(a, b) for a, b in pairwise(text.values) if isinstance(b, ast.Constant)]
            found += [f"{file}: {{{ast.unparse(a)}}}{b.value}" for a, b in pairs if plural.match(str(b.value))]
    assert not found, "\n".join(found)
