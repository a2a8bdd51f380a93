"""Names in any script can be told apart in pictures, with the fonts of this machine and without any."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from masksup.explain.looks import Looks
from masksup.explain.picture import ScoredImage, draw_looks
from masksup.output import lettering
from masksup.output.lettering import draw_text, shortened, text_width, written
from masksup.output.pictures import draw_prediction
from masksup.output.regions import draw_regions
from masksup.saved.label import Region

NAMES = (
    "Äpfel", "Öpfel", "日本語", "中文字", "кошка", "собака", "قطة", "كلب", "가나", "ไทย", "हिन्दी", "हन्दी", "שלום",
    "😀", "😃", "Hund 犬", "Hund 猫", "name\ue000", "name\ue001",
)  # fmt: skip
SIZE = 17


@pytest.fixture(params=["fonts of this machine", "no font"], autouse=True)
def fonts(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    caches = [f for f in vars(lettering).values() if hasattr(f, "cache_clear")]
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(lettering, "_told", set())
    if request.param == "no font":
        monkeypatch.setattr(lettering, "FOLDERS", (str(tmp_path),))
    yield str(request.param)
    for cached in caches:
        cached.cache_clear()


def drawn(name: str) -> np.ndarray:
    rgb = Image.new("RGB", (400, 40), (255, 255, 255))
    draw_text(ImageDraw.Draw(rgb), (2, 2), name, SIZE, (0, 0, 0))
    return np.asarray(rgb)


def test_two_names_never_look_alike() -> None:
    pictures = {name: drawn(name) for name in NAMES}
    for one, other in combinations(NAMES, 2):
        assert (pictures[one] != pictures[other]).any(), (one, other)


def test_every_picture_of_names_tells_them_apart() -> None:
    photo, maps = Image.new("RGB", (64, 64)), np.zeros((1, 2, 2), np.float32)
    ways = {
        "scores": lambda name: draw_prediction(photo, [name], [0.5], [False]),
        "regions": lambda name: draw_regions(photo, [Region((0.1, 0.1, 0.9, 0.9), name, 0.9, 0.9)]),
        "maps": lambda name: draw_looks(photo, ScoredImage([name], [0.5], [0.6]), Looks("activation", maps, None), [0]),
    }
    for way, draw in ways.items():
        pictures = [np.asarray(draw(name)) for name in ("日本", "中文", "name\ue000", "name\ue001")]
        for one, other in combinations(pictures, 2):
            assert one.shape != other.shape or (one != other).any(), way


def test_latin_letters_are_drawn_as_pillow_draws_them() -> None:
    expected = Image.new("RGB", (400, 40), (255, 255, 255))
    font = ImageFont.load_default(SIZE)
    ImageDraw.Draw(expected).text((2, 2), "traffic light 0.75", fill=(0, 0, 0), font=font)
    assert np.array_equal(drawn("traffic light 0.75"), np.asarray(expected))


def test_a_letter_without_a_font_is_said_once_and_written_as_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(lettering.log, "warning", said.append)
    assert written("class") == "class"
    assert not said
    assert written("a\ue000b") == r"a\ue000b"
    assert written("\ue001") == r"\ue001"
    assert ["'a\\ue000b'" in line for line in said] == [True]


def test_arabic_is_joined_and_runs_from_right_to_left(fonts: str) -> None:
    if fonts == "no font" or written("قطة") != "قطة":
        pytest.skip("no Arabic letters on this machine")
    letters = sum(text_width(letter, SIZE) for letter in "قطة")
    assert text_width("قطة", SIZE) != letters, "joined letters are narrower"


def test_long_names_keep_both_ends() -> None:
    long = "a name that begins like another one, of the last kind"
    for width in range(20, 500, 30):
        assert text_width(shortened(long, width, SIZE), SIZE) <= width
    assert shortened(long, 200, SIZE).endswith("kind")
    assert shortened(long, 900, SIZE) == long
    assert shortened("a\nb", 200, SIZE) == r"a\nb"
