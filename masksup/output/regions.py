"""MCAR's regions drawn on a photograph: a box and "class:global/fused" for each that counts, as its demo does."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from masksup.output.lettering import draw_text, text_width
from masksup.output.pictures import SHORTEST
from masksup.saved.label import Region

GLOBAL_ABOVE, FUSED_ABOVE = 0.1, 0.6  # probabilities from which the demo draws a region (methods.md 4.5)
MARGIN = 10  # px between a box and the border of the picture
LINE, TEXT_SIZE, PAD = 3, 16, 3  # px
# Okabe and Ito's colours that carry white text or black text well, told apart by most colour-blind readers.
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))


def draw_regions(photo: Image.Image, regions: Sequence[Region]) -> Image.Image:
    """A copy of `photo`, at least 384 px long, with the regions of global score > 0.1 and fused score > 0.6."""
    factor = max(1.0, SHORTEST / max(photo.size))
    picture = photo.convert("RGB").resize((round(photo.width * factor), round(photo.height * factor)))
    draw = ImageDraw.Draw(picture)
    shown = [r for r in regions if r.global_score > GLOBAL_ABOVE and r.fused_score > FUSED_ABOVE]
    captions: list[tuple[float, float, float, float]] = []
    for number, region in enumerate(shown):
        colour = COLOURS[number % len(COLOURS)]
        x1, y1, x2, y2 = _inside(region.box, picture.size)
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=LINE)
        text = f"{region.name}:{region.global_score:.2f}/{region.fused_score:.2f}"
        place = caption_place(x1, y1, text_width(text, TEXT_SIZE), picture.size, captions)
        captions.append(place)
        draw.rectangle(place, fill=colour)
        draw_text(draw, (place[0] + PAD, place[1] + PAD - 1), text, TEXT_SIZE, (255, 255, 255))
    return picture


def _inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Pixels of the box, kept MARGIN away from the border."""
    (width, height), (x1, y1, x2, y2) = size, box
    limit_x, limit_y = width - 1 - MARGIN, height - 1 - MARGIN
    left, top = min(max(x1 * width, MARGIN), limit_x - 1), min(max(y1 * height, MARGIN), limit_y - 1)
    return left, top, max(min(x2 * width, limit_x), left + 1), max(min(y2 * height, limit_y), top + 1)


def caption_place(
    x: float, y: float, text_width: float, size: tuple[int, int], taken: Sequence[tuple[float, float, float, float]]
) -> tuple[float, float, float, float]:
    """A rectangle for a caption at the box's upper left corner, moved down past captions already there."""
    width, height = text_width + 2 * PAD, TEXT_SIZE + 2 * PAD
    left = max(0.0, min(x, size[0] - width - 1))
    top = max(0.0, y - height)
    while any(top < t[3] and t[1] < top + height and left < t[2] and t[0] < left + width for t in taken):
        top += height + 1
    return left, top, left + width, top + height
