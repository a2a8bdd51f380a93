"""What a picture shows is read back from its pixels."""

import numpy as np
import pytest
from PIL import Image

from masksup.base.words import SHOWN
from masksup.output.pictures import (
    BAR_HEIGHT,
    COLUMN,
    FALSE,
    LONGEST,
    MARGIN,
    MISSED,
    PLAIN,
    RIGHT,
    ROW,
    SHORTEST,
    contact_sheet,
    draw_prediction,
)  # fmt: skip

PHOTO = (40, 160, 60)


def count(picture, colour):
    return int((np.asarray(picture) == colour).all(axis=2).sum())


def bar_lengths(picture, colour, first=MARGIN):
    """Lengths of the horizontal runs of `colour`, one a row of the panel, top to bottom."""
    is_colour = (np.asarray(picture) == colour).all(axis=2)
    return [int(is_colour[y].sum()) for y in range(first + 27, picture.height - MARGIN, ROW)]


def draw(size=(500, 400), scores=(0.25, 1.0, 0.5), present=(False, True, True), truth=None, **options):
    names = [f"class {c}" for c in range(len(scores))]
    return draw_prediction(Image.new("RGB", size, PHOTO), names, scores, present, truth, **options)


def test_bars_are_sorted_and_as_long_as_the_scores():
    picture = draw()
    assert bar_lengths(picture, RIGHT)[:2] == [COLUMN, COLUMN // 2]
    assert bar_lengths(picture, PLAIN)[:3] == [0, 0, round(COLUMN / 4)]


def test_truth_decides_the_colours():
    picture = draw(scores=(0.9, 0.8, 0.1, 0.7), present=(1, 1, 0, 1), truth=[1, 0, 1, -1])
    assert bar_lengths(picture, RIGHT)[0] == round(0.9 * COLUMN)
    assert bar_lengths(picture, FALSE)[1] == round(0.8 * COLUMN)
    assert bar_lengths(picture, PLAIN)[2] == round(0.7 * COLUMN), "an ignored pair is neither right nor false"
    assert bar_lengths(picture, MISSED)[3] == round(0.1 * COLUMN)


def test_threshold_is_marked_where_it_lies():
    difference = np.asarray(draw(threshold=0.8)) != np.asarray(draw())
    assert np.flatnonzero(difference.any(axis=(0, 2))).tolist() == [
        500 + 2 * MARGIN + round(0.8 * COLUMN) + offset for offset in (-1, 0)
    ]
    each = np.asarray(draw(threshold=[0.1, 0.8, 0.8])) != np.asarray(draw(threshold=0.8))
    assert np.flatnonzero(each.any(axis=(1, 2))).min() > MARGIN + 2 * ROW, "only the last row, class 0, moved"


def test_shown_are_the_top_all_predicted_and_all_true():
    scores = np.linspace(0.99, 0.01, 80).tolist()
    present = [s >= 0.9 for s in scores]
    truth = [0] * 79 + [1]
    picture = draw((768, 768), scores, present, truth, top=3)
    assert sum(length > 0 for length in bar_lengths(picture, FALSE)) == sum(present) == 8
    assert bar_lengths(picture, MISSED)[8] == round(0.01 * COLUMN)
    few = draw((768, 768), scores, [False] * 80, top=3)
    assert sum(length > 0 for length in bar_lengths(few, PLAIN)) == 3


def test_of_thousands_predicted_the_true_and_the_highest_are_shown():
    truth = [int(c in (1700, 1999)) for c in range(2000)]
    picture = draw((400, 460), [1.0] * 2000, [True] * 2000, truth)
    bar = COLUMN * BAR_HEIGHT
    legend = 11 * 11  # a square of each colour
    assert count(picture, FALSE) == (SHOWN - 2) * bar + legend
    assert count(picture, RIGHT) == 2 * bar + legend, "true ones are never left out"
    assert picture.width == 400 + 4 * (COLUMN + MARGIN) + 2 * MARGIN


@pytest.mark.parametrize(
    "size", [(96, 96), (96, 40), (40, 96), (640, 480), (4000, 3000), (3000, 4000), (4000, 8), (1, 1)]
)
@pytest.mark.parametrize("shown", [1, 80])
def test_any_size_gives_a_picture_of_bounded_size(size, shown):
    picture = draw(size, [0.5] * 80, [c < shown for c in range(80)], top=1)
    columns = 1 if shown == 1 else 7
    assert picture.width <= LONGEST + columns * (COLUMN + MARGIN) + 2 * MARGIN
    assert picture.height <= LONGEST + 2 * MARGIN
    longer = min(max(*size, SHORTEST), LONGEST)
    expected = round(size[0] * longer / max(size)) * round(size[1] * longer / max(size))
    assert count(picture, PHOTO) == max(expected, longer), "the whole photograph, in proportion"


def test_long_names_stay_clear_of_the_number():
    image = Image.new("RGB", (500, 400))
    long, longer = ("wwwwwwwwww " * n for n in (20, 40))
    assert draw_prediction(image, [long], [0.5], [True]) == draw_prediction(image, [longer], [0.5], [True])
    panel = np.asarray(draw_prediction(image, [long], [0.5], [True]))[MARGIN : MARGIN + 20, 500 + 2 * MARGIN :]
    inked = np.flatnonzero((panel < 128).any(axis=(0, 2)))
    assert inked.max() < COLUMN
    assert np.diff(inked).max() >= 8, "a gap before the number"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_any_mode_and_odd_names_are_drawn_and_the_input_kept(mode):
    image = Image.new(mode, (64, 48))
    before = image.tobytes()
    picture = draw_prediction(image, ["line\nbreak", "naïve", ""], [0.1, 0.2, 1.0], [False] * 3)
    assert picture.mode == "RGB"
    assert image.tobytes() == before


def test_drawing_is_deterministic():
    assert draw(truth=[1, 0, -1], threshold=0.5).tobytes() == draw(truth=[1, 0, -1], threshold=0.5).tobytes()


def test_sheet_holds_every_picture_whole_in_reading_order():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sheet = contact_sheet([Image.new("RGB", (30 + 10 * i, 20), c) for i, c in enumerate(colours)], 2, gap=5)
    assert sheet.size == (2 * 50 + 3 * 5, 2 * 20 + 3 * 5)
    assert [count(sheet, c) for c in colours] == [600, 800, 1000]
    assert [sheet.getpixel(p) for p in ((30, 15), (85, 15), (30, 40))] == colours
    assert contact_sheet([Image.new("RGB", (30, 20))], 4, gap=5).size == (40, 30)
