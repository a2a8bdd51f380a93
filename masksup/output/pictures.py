"""Pictures for people: an image with its scores drawn beside it, and sheets of several."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from masksup.base.words import SHOWN
from masksup.output.lettering import draw_text, shortened, text_width

SHORTEST, LONGEST = 384, 768  # bounds of the longer side of the photograph, px: small ones grow, large ones shrink
ROW, COLUMN, MARGIN = 38, 270, 14  # px: height of a class, width of a column of classes, space around
BAR_TOP, BAR_HEIGHT = 23, 9  # px within a row
TEXT_SIZE, SMALL_SIZE, LEGEND = 17, 14, 26
PAPER, INK, FAINT, TRACK = (255, 255, 255), (25, 28, 33), (105, 110, 118), (226, 229, 233)
# Told apart by most colour-blind readers too (Okabe and Ito's blue, vermilion and orange).
RIGHT, FALSE, MISSED, PLAIN = (0, 114, 178), (213, 94, 0), (230, 159, 0), (168, 174, 182)


def draw_prediction(
    image: Image.Image,
    names: Sequence[str],
    scores: Sequence[float],
    present: Sequence[bool],
    truth: Sequence[int] | None = None,
    *,
    threshold: float | Sequence[float] | None = None,
    top: int = 5,
) -> Image.Image:
    """`image` with its classes to the right: name, score and bar each, sorted by score, as an RGB picture.

    `scores` are probabilities in [0, 1]; `present` says which classes are predicted; `truth`, if known, holds 1, 0 or
    -1 (ignored) for each class. Shown are the `top` highest scores, all that are predicted and all that are true; of
    more than 40 the true ones and the highest, and how many more there are.
    `threshold`, one or one a class, is marked on the bars. Colours: without truth blue is predicted; with it blue is
    predicted and true, vermilion predicted and false, orange true and missed; grey is the rest.
    The photograph is scaled so that its longer side is between 384 and 768 px.
    """
    assert len(names) == len(scores) == len(present), (len(names), len(scores), len(present))
    assert truth is None or len(truth) == len(names), "one truth a class"
    photo = _fitted(image.convert("RGB"))
    rows = _rows(scores, present, truth, top)
    legend = LEGEND if truth is not None else 0
    shown = _most(rows, truth)
    places = len(shown) + (len(shown) < len(rows))
    columns = max(1, -(-places // max((photo.height - legend) // ROW, 12)))
    per_column = -(-places // columns)
    height = max(photo.height, per_column * ROW + legend) + 2 * MARGIN
    picture = Image.new("RGB", (photo.width + columns * (COLUMN + MARGIN) + 2 * MARGIN, height), PAPER)
    picture.paste(photo, (MARGIN, MARGIN))
    draw = ImageDraw.Draw(picture)
    left = photo.width + 2 * MARGIN
    corners = [
        (left + place // per_column * (COLUMN + MARGIN), MARGIN + place % per_column * ROW) for place in range(places)
    ]
    if len(shown) < len(rows):
        draw_text(draw, corners[-1], f"and {len(rows) - len(shown):,} more", TEXT_SIZE, FAINT)
    for c, corner in zip(shown, corners):
        mark = threshold[c] if isinstance(threshold, Sequence) else threshold
        known = None if truth is None else truth[c]
        _draw_row(draw, corner, names[c], scores[c], present[c], known, mark)
    if truth is not None:
        _draw_legend(draw, (left, height - MARGIN - SMALL_SIZE))
    return picture


def contact_sheet(pictures: Sequence[Image.Image], columns: int, gap: int = 12) -> Image.Image:
    """The pictures in reading order centred in equal cells as large as the largest, `gap` px apart."""
    assert pictures, "a sheet needs pictures"
    assert columns >= 1, columns
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), TRACK)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        left = gap + column * (width + gap) + (width - picture.width) // 2
        sheet.paste(picture, (left, gap + row * (height + gap) + (height - picture.height) // 2))
    return sheet


def _fitted(photo: Image.Image) -> Image.Image:
    longer = max(photo.size)
    wanted = min(max(longer, SHORTEST), LONGEST)
    if wanted == longer:
        return photo
    size = (max(1, round(photo.width * wanted / longer)), max(1, round(photo.height * wanted / longer)))
    return photo.resize(size, Image.Resampling.LANCZOS if wanted < longer else Image.Resampling.BICUBIC)


def _rows(scores: Sequence[float], present: Sequence[bool], truth: Sequence[int] | None, top: int) -> list[int]:
    """The classes shown, highest score first; equal scores in class order."""
    order = sorted(range(len(scores)), key=lambda c: (-scores[c], c))
    return [c for rank, c in enumerate(order) if rank < top or present[c] or (truth is not None and truth[c] == 1)]


def _most(rows: list[int], truth: Sequence[int] | None) -> list[int]:
    """Of many classes the true ones and the highest, in their order: a picture of thousands of rows is of no use."""
    if len(rows) <= SHOWN:
        return rows
    first = sorted(rows, key=lambda c: truth is None or truth[c] != 1)[:SHOWN]
    kept = set(first)
    return [c for c in rows if c in kept]


def _draw_row(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    name: str,
    score: float,
    present: bool,
    truth: int | None,
    threshold: float | None,
) -> None:
    x, y = corner
    colour = _colour(present, truth)
    number = f"{score:.2f}"
    number_width = text_width(number, TEXT_SIZE)
    text_x = x
    if truth == 1:
        draw.line([(x, y + 11), (x + 5, y + 16), (x + 14, y + 5)], fill=INK, width=3, joint="curve")
        text_x += 20
    elif truth == -1:
        draw_text(draw, (x + 3, y), "?", TEXT_SIZE, FAINT)
        text_x += 20
    ink = INK if present or truth == 1 else FAINT
    shown = shortened(name, x + COLUMN - number_width - 10 - text_x, TEXT_SIZE)
    draw_text(draw, (text_x, y), shown, TEXT_SIZE, ink, stroke=0.4 if present else 0)
    draw_text(draw, (x + COLUMN - number_width, y), number, TEXT_SIZE, ink)
    _draw_bar(draw, (x, y + BAR_TOP), score, colour, threshold)


def _draw_bar(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    score: float,
    colour: tuple[int, int, int],
    threshold: float | None,
) -> None:
    """A track COLUMN px long, filled in proportion to the score; the threshold is a dark line across it."""
    x, y = corner
    draw.rectangle((x, y, x + COLUMN - 1, y + BAR_HEIGHT - 1), fill=TRACK)
    filled = round(min(max(score, 0.0), 1.0) * COLUMN)
    if filled:
        draw.rectangle((x, y, x + filled - 1, y + BAR_HEIGHT - 1), fill=colour)
    if threshold is not None:
        mark = x + min(round(threshold * COLUMN), COLUMN - 1)
        draw.rectangle((mark - 1, y - 3, mark, y + BAR_HEIGHT + 2), fill=INK)


def _colour(present: bool, truth: int | None) -> tuple[int, int, int]:
    if truth is None or truth == -1:
        return RIGHT if present and truth is None else PLAIN
    if present:
        return RIGHT if truth == 1 else FALSE
    return MISSED if truth == 1 else PLAIN


def _draw_legend(draw: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    x, y = corner
    for text, colour in (("right", RIGHT), ("false", FALSE), ("missed", MISSED)):
        draw.rectangle((x, y + 3, x + 10, y + 13), fill=colour)
        draw_text(draw, (x + 15, y), text, SMALL_SIZE, FAINT)
        x += 28 + round(text_width(text, SMALL_SIZE))
    draw.line([(x, y + 8), (x + 4, y + 12), (x + 11, y + 3)], fill=INK, width=2)
    draw_text(draw, (x + 16, y), "true label", SMALL_SIZE, FAINT)
