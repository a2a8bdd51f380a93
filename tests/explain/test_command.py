"""`masksup predict --pictures --explain` as a user types it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.index import open_index
from masksup.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Config]) -> Path:
    folder = tmp_path_factory.mktemp("explain") / "run"
    config = tiny_config(epochs=1, method={"name": "masksup", "base": {"name": "mcar", "top": 2}, "bank": 20})
    assert train(config, folder) == 0
    return folder


def test_maps_regions_and_views_are_drawn_below_the_scores(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    index = open_index(tiny_data / "test")
    photo = Image.open(index.path(0)).resize((90, 40))
    photo.save(tmp_path / "wide.png")
    plain, explained, chosen = (tmp_path / name for name in ("plain", "explained", "chosen"))
    arguments = ["predict", str(run), str(tmp_path / "wide.png"), "--pictures"]
    assert main([*arguments, str(plain)]) == 0
    assert main([*arguments, str(explained), "--explain"]) == 0
    classes = ",".join(index.classes[:7])
    assert main([*arguments, str(chosen), "--explain", "--classes", classes]) == 0
    heights = [Image.open(folder / "wide.png").height for folder in (plain, explained, chosen)]
    assert heights[0] < heights[1] < heights[2], "each adds rows of maps"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--explain"], "--explain: it needs --pictures DIR"),
        (["--pictures", "{tmp}/out", "--classes", "disc"], "--classes: found it without --explain"),
        (["--pictures", "{tmp}/out", "--explain", "--classes", "disc,rign"], "no class 'rign'; did you mean 'ring'?"),
    ],
)
def test_wrong_options_are_one_line(
    options: list[str], expected: str, run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(open_index(tiny_data / "test").path(0))
    assert main(["predict", str(run), photo, *(option.format(tmp=tmp_path) for option in options)]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))
