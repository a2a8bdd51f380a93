"""Text in pictures, in any script: the letters that Pillow's own font lacks come from the fonts of this machine.

A letter that no font has is written as its code, as Python writes it (`\\u65e5`), so that two names never look alike.
"""

from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from unicodedata import category

from PIL import ImageDraw, ImageFont

from masksup.base.log import log

FOLDERS = (
    "~/.local/share/fonts", "~/.fonts", "/usr/share/fonts", "/usr/local/share/fonts", "~/Library/Fonts",
    "/Library/Fonts", "/System/Library/Fonts",
)  # fmt: skip
_SUFFIXES = {".ttf", ".otf", ".ttc"}
_PROBE = 16  # px: size at which glyphs are compared
_NO_LETTER = "\U0010ffff"  # never a character, so that every font draws its sign for a missing one
_WITHOUT_SHAPE = {"Zs", "Cf"}  # spaces, joiners
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}  # and half characters, and separators of lines

Colour = tuple[int, int, int]


def text_width(text: str, size: int) -> float:
    """Width of `text` in px, at `size` px."""
    return sum(_font(file, size).getlength(run) for file, run in _runs(written(text)))


def fonts_for(text: str) -> list[Path]:
    """The fonts of this machine that `text` needs where Pillow's own lacks letters of it."""
    return list(dict.fromkeys(file for file, _ in _runs(written(text)) if file is not None))


def draw_text(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: Colour, stroke: float = 0
) -> None:
    """Draw one line; `place` is its upper left corner, and `stroke` px of its own colour make it bold."""
    x, y = place
    base = y + _font(None, size).getmetrics()[0]
    for file, run in _runs(written(text)):
        font = _font(file, size)
        draw.text((x, base), run, fill=fill, font=font, anchor="ls", stroke_width=stroke, stroke_fill=fill)
        x += font.getlength(run)


def shortened(text: str, width: float, size: int) -> str:
    """`text` with dots for its middle where it would be wider than `width` px: long names often begin alike."""
    text = written(text)
    shown, kept = text, len(text)
    while kept and text_width(shown, size) > width:
        kept -= 1
        shown = f"{text[: kept - kept // 2].rstrip()}...{text[len(text) - kept // 2 :].lstrip()}"
    return shown


def written(text: str) -> str:
    """`text` with the codes of control characters and of letters that no font has, of which a warning tells once."""
    controls = [letter for letter in dict.fromkeys(text) if category(letter) in _CONTROLS]
    missing = [letter for letter in dict.fromkeys(text) if letter not in controls and not _known(letter)]
    if missing:
        _warn(text)
    for letter in controls + missing:
        text = text.replace(letter, ascii(letter)[1:-1])
    return text


_told: set[str] = set()


def _warn(text: str) -> None:
    if not _told:
        log.warning(
            f"pictures: the fonts on this machine lack letters of {text!r}, which are drawn as codes; install a font "
            "with them, such as Noto Sans or GNU Unifont, or put its file into ~/.local/share/fonts"
        )
    _told.add(text)


def _runs(text: str) -> Iterator[tuple[Path | None, str]]:
    """Pieces of one font each (None: Pillow's own): one font for all where one has all, since it alone can join
    letters and turn their direction."""
    letters = "".join(dict.fromkeys(text))
    for file in (None, *(_font_of(letter) for letter in letters)):
        if all(_has(file, letter) for letter in letters):
            yield file, text
            return
    chosen: list[Path | None] = []
    for letter in text:  # what has no shape of its own goes with the letter before it
        chosen.append(chosen[-1] if chosen and _has(chosen[-1], letter) else _font_of(letter))
    for file, run in groupby(zip(chosen, text), key=lambda pair: pair[0]):
        yield file, "".join(letter for _, letter in run)


@cache
def _known(letter: str) -> bool:
    return _has(None, letter) or _font_of(letter) is not None


@cache
def _font_of(letter: str) -> Path | None:
    """The first font that has the letter; None: Pillow's own, or none at all."""
    if _has(None, letter):
        return None
    return next((file for file in _files() if _has(file, letter)), None)


@cache
def _has(file: Path | None, letter: str) -> bool:
    if category(letter) in _WITHOUT_SHAPE:
        return True
    try:
        font = _plain(file)
        return _shape(font, letter) != _shape(font, _NO_LETTER)
    except (OSError, ValueError):  # a font that Pillow cannot use, such as one of coloured bitmaps
        return False


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@cache
def _plain(file: Path | None) -> ImageFont.FreeTypeFont:
    """Without the shaping that puts a mark on a letter, and so would draw one where there is none."""
    return _font(file, _PROBE).font_variant(layout_engine=ImageFont.Layout.BASIC)


@cache
def _font(file: Path | None, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


@cache
def _files() -> tuple[Path, ...]:
    """The fonts of this machine: upright and plain ones without serifs first."""
    places = (Path(folder).expanduser() for folder in FOLDERS)
    found = {file for place in places for file in place.rglob("*") if file.suffix.lower() in _SUFFIXES}
    return tuple(sorted(found, key=lambda file: (*_plainness(file.stem.lower()), str(file))))


def _plainness(name: str) -> tuple[bool, bool, bool]:
    odd = any(word in name for word in ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "mono"))
    return odd, "serif" in name and "sans" not in name, "sans" not in name
