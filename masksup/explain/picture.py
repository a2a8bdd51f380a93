"""The picture of `masksup predict --pictures --explain`: a photograph, its scores, and where each class is seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from masksup.explain.heat import legend, overlay
from masksup.explain.looks import KeyPoint, Looks
from masksup.output.lettering import draw_text, shortened, text_width
from masksup.output.pictures import FAINT, INK, MARGIN, PAPER, RIGHT, TRACK, draw_prediction
from masksup.output.regions import COLOURS, caption_place
from masksup.saved.label import Region

TILE = 240  # px: width of a map
HEAD = 40  # px: name, score and bar above it
MOST, LEAST = 8, 3  # classes with a map, where none were asked for
LINE = 2
NAME_SIZE, NOTE_SIZE = 16, 14  # px


@dataclass(frozen=True)
class ScoredImage:
    """The scores of one image. `thresholds`: one a class. `truth`: 1, 0 or -1 a class, where it is known."""

    names: Sequence[str]
    scores: Sequence[float]
    thresholds: Sequence[float]
    truth: Sequence[int] | None = None

    @property
    def present(self) -> list[bool]:
        return [score >= threshold for score, threshold in zip(self.scores, self.thresholds)]


def chosen_classes(scored: ScoredImage, asked: Sequence[int] | None = None) -> list[int]:
    """The classes whose maps are shown: those asked for; else the predicted ones, likeliest first, at most 8, and if
    there are fewer than 3 the next likeliest."""
    if asked is not None:
        return list(asked)
    order = sorted(range(len(scored.scores)), key=lambda c: (-scored.scores[c], c))
    present = scored.present
    predicted = [c for c in order if present[c]]
    return (predicted + [c for c in order if not present[c]][: max(0, LEAST - len(predicted))])[:MOST]


def draw_looks(
    photo: Image.Image, scored: ScoredImage, looks: Looks, classes: Sequence[int], regions: Sequence[Region] = (),
) -> Image.Image:  # fmt: skip
    """The photograph with its scores; below it a map of each of `classes`; below these the views with holes.

    `photo` is what the network saw, before it was made square. Regions are drawn on the map of their class with the
    scores "global/fused", key points as a cross with the cuts through it.
    """
    top = draw_prediction(photo, scored.names, scored.scores, scored.present, scored.truth, threshold=scored.thresholds)
    columns = max(3, (top.width - MARGIN) // (TILE + MARGIN))
    small = _narrow(photo, TILE)
    tiles = [_tile(small, scored, looks, c, regions) for c in classes]
    blocks = [top, _captioned(_grid(tiles, columns), legend(looks.kind, columns * (TILE + MARGIN)))]
    if regions:
        blocks.append(
            _note("Boxes: the region that was looked at again for this class; score of the image / of both looks.")
        )
    if looks.points:
        blocks.append(_note("Crosses: where OASS cuts the image, at the maps of the predicted classes."))
    if looks.views:
        shown = [_view(view.title, view.image_3SS.permute(1, 2, 0).numpy(), scored, view.scores_C, small.size)
                 for view in looks.views]  # fmt: skip
        blocks.append(_captioned(_grid(shown, columns), _note("The same image with a part of it hidden:")))
    return _stacked(blocks)


def _tile(small: Image.Image, scored: ScoredImage, looks: Looks, c: int, regions: Sequence[Region]) -> Image.Image:
    tile = Image.new("RGB", (TILE, HEAD + small.height), PAPER)
    _score_line(tile, scored.names[c], scored.scores[c], scored.thresholds[c])
    heat = overlay(small, looks.maps_CHW[c])
    draw = ImageDraw.Draw(heat)
    for point in looks.points:
        if scored.names[c] in point.names:
            _draw_point(draw, point, heat.size)
    for number, region in enumerate(r for r in regions if r.name == scored.names[c]):
        _draw_region(draw, region, heat.size, COLOURS[number % len(COLOURS)])
    if looks.concentration_C is not None:
        _badge(draw, f"peak {looks.concentration_C[c]:.1f} x even", heat.size)
    elif not looks.maps_CHW[c].any():
        _badge(draw, "nothing speaks for it", heat.size)
    tile.paste(heat, (0, HEAD))
    return tile


def _score_line(tile: Image.Image, name: str, score: float, threshold: float) -> None:
    draw = ImageDraw.Draw(tile)
    number = f"{score:.2f}"
    width = text_width(number, NAME_SIZE)
    present = score >= threshold
    ink = INK if present else FAINT
    shown = shortened(name, TILE - width - 10, NAME_SIZE)
    draw_text(draw, (0, 4), shown, NAME_SIZE, ink, stroke=0.4 if present else 0)
    draw_text(draw, (TILE - width, 4), number, NAME_SIZE, ink)
    draw.rectangle((0, 27, TILE - 1, 33), fill=TRACK)
    if filled := round(min(max(score, 0.0), 1.0) * TILE):
        draw.rectangle((0, 27, filled - 1, 33), fill=RIGHT if present else (168, 174, 182))
    mark = min(round(threshold * TILE), TILE - 1)
    draw.rectangle((mark - 1, 24, mark, 36), fill=INK)


def _draw_point(draw: ImageDraw.ImageDraw, point: KeyPoint, size: tuple[int, int]) -> None:
    x, y = point.x * size[0], point.y * size[1]
    for at in range(0, max(size), 8):  # dashes
        draw.line((at, y, at + 4, y), fill=(255, 255, 255), width=1)
        draw.line((x, at, x, at + 4), fill=(255, 255, 255), width=1)
    for width, colour in ((5, (0, 0, 0)), (3, (86, 180, 233))):
        draw.line((x - 8, y, x + 8, y), fill=colour, width=width)
        draw.line((x, y - 8, x, y + 8), fill=colour, width=width)


def _draw_region(
    draw: ImageDraw.ImageDraw, region: Region, size: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    x1, y1, x2, y2 = (share * side for share, side in zip(region.box, (*size, *size)))
    box = (x1, y1, max(x1 + 1, min(x2, size[0]) - 1), max(y1 + 1, min(y2, size[1]) - 1))
    draw.rectangle(box, outline=(255, 255, 255), width=LINE + 2)
    draw.rectangle(box, outline=colour, width=LINE)
    text = f"{region.global_score:.2f}/{region.fused_score:.2f}"
    place = caption_place(x1, y1, text_width(text, 13), size, ())
    draw.rectangle(place, fill=colour)
    draw_text(draw, (place[0] + 3, place[1] + 3), text, 13, (255, 255, 255))


def _badge(draw: ImageDraw.ImageDraw, text: str, size: tuple[int, int]) -> None:
    width = text_width(text, 12)
    corner = (size[0] - width - 8, size[1] - 19)
    draw.rectangle((*corner, size[0], size[1]), fill=(0, 0, 0))
    draw_text(draw, (corner[0] + 4, corner[1] + 2), text, 12, (255, 255, 255))


def _view(
    title: str, pixels_HW3: NDArray[np.uint8], scored: ScoredImage, scores_C: NDArray[np.float64], size: tuple[int, int]
) -> Image.Image:
    """A view with holes and its likeliest classes, with how far each moved from the whole image."""
    rows = sorted(range(len(scores_C)), key=lambda c: (-max(float(scores_C[c]), scored.scores[c]), c))[:4]
    tile = Image.new("RGB", (TILE, 24 + size[1] + 6 + 21 * len(rows)), PAPER)
    draw = ImageDraw.Draw(tile)
    draw_text(draw, (0, 2), title, NOTE_SIZE, INK)
    tile.paste(Image.fromarray(pixels_HW3).resize(size, Image.Resampling.BILINEAR), (0, 24))
    for place, c in enumerate(rows):
        y = 24 + size[1] + 6 + 21 * place
        score = float(scores_C[c])
        text = f"{scored.scores[c]:.2f} to {score:.2f}"
        width = text_width(text, NOTE_SIZE)
        same = (score >= scored.thresholds[c]) == (scored.scores[c] >= scored.thresholds[c])
        ink = INK if same else (213, 94, 0)
        draw_text(draw, (0, y), shortened(scored.names[c], TILE - width - 8, NOTE_SIZE), NOTE_SIZE, ink)
        draw_text(draw, (TILE - width, y), text, NOTE_SIZE, ink)
    return tile


def _narrow(photo: Image.Image, width: int) -> Image.Image:
    height = min(max(round(photo.height * width / photo.width), width // 3), 2 * width)
    return photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _grid(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    rows = -(-len(tiles) // columns)
    height = max(tile.height for tile in tiles)
    grid = Image.new("RGB", (columns * (TILE + MARGIN) - MARGIN, rows * (height + MARGIN) - MARGIN), PAPER)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        grid.paste(tile, (column * (TILE + MARGIN), row * (height + MARGIN)))
    return grid


def _captioned(block: Image.Image, caption: Image.Image) -> Image.Image:
    both = Image.new("RGB", (max(block.width, caption.width), block.height + caption.height + 6), PAPER)
    both.paste(caption, (0, 0))
    both.paste(block, (0, caption.height + 6))
    return both


def _note(text: str) -> Image.Image:
    strip = Image.new("RGB", (3 * TILE, 22), PAPER)
    draw_text(ImageDraw.Draw(strip), (0, 2), text, NOTE_SIZE, INK)
    return strip


def _stacked(blocks: Sequence[Image.Image]) -> Image.Image:
    width = max(block.width + (0 if number == 0 else 2 * MARGIN) for number, block in enumerate(blocks))
    picture = Image.new("RGB", (width, sum(b.height + MARGIN for b in blocks)), PAPER)
    y = 0
    for number, block in enumerate(blocks):
        picture.paste(block, (0 if number == 0 else MARGIN, y))
        y += block.height + (0 if number == 0 else MARGIN)
    return picture
