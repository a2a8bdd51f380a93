"""Too little to fit to, sizes that cut patches, files that are no weights: each is said, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from masksup.base.words import figure, kind_of
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
    assert main(["calibrate", str(run), "--min-positives", "5000"]) == 2
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
