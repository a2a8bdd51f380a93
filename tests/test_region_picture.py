"""MCAR's regions on a picture: which are drawn, where, and that `predict` draws those the method looked at."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from masksup.cli import main
from masksup.config.schema import Config
from masksup.data.decode import decode
from masksup.methods.mcar import find_mcar
from masksup.output.image_files import find_images
from masksup.output.regions import COLOURS, LINE, MARGIN, draw_regions
from masksup.saved.decisions_of import decisions_for
from masksup.saved.label import Region, label
from masksup.saved.open import open_trained
from masksup.training.train import train

PHOTO = Image.new("RGB", (400, 300), (50, 60, 70))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def coloured(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of exactly this colour."""
    return np.argwhere((pixels(picture) == colour).all(-1))


@pytest.mark.parametrize(
    ("global_score", "fused_score", "drawn"),
    [(0.11, 0.61, True), (0.10, 0.99, False), (0.99, 0.60, False), (0.05, 0.99, False), (0.9, 0.95, True)],
)
def test_a_region_is_drawn_above_both_scores_only(global_score: float, fused_score: float, drawn: bool) -> None:
    picture = draw_regions(PHOTO, [Region((0.2, 0.2, 0.8, 0.8), "dog", global_score, fused_score)])
    assert (pixels(picture) != pixels(PHOTO)).any() == drawn


def test_the_box_stands_where_the_shares_say_and_keeps_away_from_the_border() -> None:
    inside = draw_regions(PHOTO, [Region((0.25, 0.4, 0.75, 0.9), "dog", 0.9, 0.9)])
    rows, columns = coloured(inside, COLOURS[0]).T
    assert (columns.min(), columns.max()) == (100, 300)
    assert rows.max() == 270
    assert (pixels(inside)[160:265, 100 + LINE : 300 - LINE] == (50, 60, 70)).all(), "the box is an outline"
    whole = draw_regions(PHOTO, [Region((0, 0, 1, 1), "dog", 0.9, 0.9)])
    rows, columns = coloured(whole, COLOURS[0]).T
    assert columns.max() == 399 - MARGIN
    assert rows.max() == 299 - MARGIN


def test_captions_of_the_same_place_do_not_cover_each_other() -> None:
    regions = [Region((0.3, 0.3, 0.9, 0.9), name, 0.9, 0.9) for name in ("dog", "cat", "person")]
    picture = draw_regions(PHOTO, regions)
    for colour in COLOURS[:3]:  # of each caption the background is to be seen, beside the outline of the last box
        rows = coloured(picture, colour)[:, 0]
        counts = np.bincount(rows, minlength=300)
        assert (counts[counts > 40] > 0).sum() >= 15, colour


def test_small_pictures_grow() -> None:
    assert max(draw_regions(PHOTO.resize((100, 50)), []).size) == 384


@pytest.mark.parametrize("base", [False, True])
def test_predict_draws_what_the_method_looked_at(
    base: bool, tiny_config: Callable[..., Config], tiny_data: Path, tmp_path: Path
) -> None:
    method = {"name": "mcar", "top": 2}
    config = tiny_config(method={"name": "masksup", "base": method} if base else method, model__head={"name": "linear"})
    assert train(config, tmp_path / "run") == 0
    trained = open_trained(tmp_path / "run")
    files = find_images([str(tiny_data / "root")])[:3]
    size = config.model.size
    block = [(f, decode(f, exif=True, max_pixels=10**6)[:, :size, :size].contiguous()) for f in files]
    mcar = find_mcar(trained.method)
    assert mcar is not None
    with torch.inference_mode():
        expected = mcar.predict_regions(torch.stack([image for _, image in block]))
    for row, (_, scores_C, regions) in enumerate(label(block, trained, decisions_for(trained))):
        names = [trained.classes[int(c)] for c in expected.classes_BN[row]]
        assert [region.name for region in regions] == names
        boxes = [[round(x * size) for x in region.box] for region in regions]
        assert boxes == expected.boxes_BN4[row].tolist()
        np.testing.assert_allclose(scores_C, expected.fused_BC[row].sigmoid().numpy(), atol=1e-5)
        for region in regions:
            c = trained.classes.index(region.name)
            np.testing.assert_allclose(region.global_score, float(expected.global_BC[row, c].sigmoid()), atol=1e-5)
            np.testing.assert_allclose(region.fused_score, scores_C[c], atol=1e-5)
            assert region.fused_score >= region.global_score - 1e-6
    images = [str(file) for file in files]
    assert main(["predict", str(tmp_path / "run"), *images, "--pictures", str(tmp_path / "pictures")]) == 0
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3
