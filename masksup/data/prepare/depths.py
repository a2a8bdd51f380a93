"""The pixel range of a data set: one for all its pictures that are not plain 8 bits, found or given."""

import math

from masksup.base.words import counted
from masksup.data.prepare.images import ImageFacts
from masksup.data.reading import PixelRange, level_of, misfit, range_for, range_text
from masksup.errors import UserError

Facts = dict[str, ImageFacts | str]
_DARK = 16  # of 256 levels: a picture below is hard to see anything in


def range_of(facts: Facts, given: PixelRange) -> PixelRange:
    """The range that `given` says, or the fewest bits that hold all pictures; None where all are plain 8 bits.

    UserError where no usual range does, or where whole numbers and fractions would need different ones.
    """
    spans = {name: fact.span for name, fact in facts.items() if isinstance(fact, ImageFacts) and fact.span}
    if given is not None or not spans:
        return given if spans else None
    ranges: dict[PixelRange, str] = {}
    for whole in (True, False):
        some = {name: found for name, found in spans.items() if found[2] == whole}
        if not some:
            continue
        low, high = min(found[0] for found in some.values()), max(found[1] for found in some.values())
        chosen, example = range_for(low, high, whole), max(some, key=lambda name: some[name][1])
        if chosen is None:
            if low < 0:
                example = min(some, key=lambda name: some[name][0])
            raise UserError(
                f"{example}: found pixels of {low:.6g} to {high:.6g} in {counted(len(some), 'image')} like it, and no "
                f"rule for them; say which value is black and which is white: --pixel-range={low:.6g}:{high:.6g}"
            )
        ranges[chosen] = example
    if len(ranges) > 1:
        both = " and ".join(f"{range_text(chosen)} ({name})" for chosen, name in ranges.items())
        raise UserError(f"found pictures of the pixel ranges {both}, expected one for all: --pixel-range LOW:HIGH")
    return next(iter(ranges))


def refuse_no_numbers(facts: Facts) -> None:
    """Turn the facts of pictures with pixels that are no numbers into the reason why; no range holds them."""
    for name, fact in facts.items():
        if isinstance(fact, ImageFacts) and fact.span and not math.isfinite(sum(fact.span[:2])):
            facts[name] = "found pixels that are no numbers (nan or infinite)"


def refuse_misfits(facts: Facts, pixel_range: PixelRange) -> None:
    """Turn the facts of pictures that do not fit into the reason why."""
    for name, fact in facts.items():
        if isinstance(fact, ImageFacts) and fact.span and (problem := misfit(*fact.span, pixel_range)):
            facts[name] = problem


def said(facts: Facts, pixel_range: PixelRange, given: PixelRange) -> list[str]:
    """The rule and what it does, for people."""
    deep = {name: fact.span for name, fact in facts.items() if isinstance(fact, ImageFacts) and fact.span}
    if not deep or pixel_range is None:
        return []
    low, high = min(found[0] for found in deep.values()), max(found[1] for found in deep.values())
    how = "" if given is not None else ", the fewest bits that hold them"
    lines = [
        f"pixel range {range_text(pixel_range)}{how}: {counted(len(deep), 'image')} of more than 8 bits, with values "
        f"from {low:.6g} to {high:.6g}; predict and exported models use it too"
    ]
    dark = [name for name, found in deep.items() if level_of(found[1], pixel_range, found[2]) < _DARK]
    if dark:
        lines.append(
            f"{counted(len(dark), 'image')} nearly black in the pixel range {range_text(pixel_range)} (first: "
            f"{dark[0]}, with values up to {deep[dark[0]][1]:.6g}); another range is given by --pixel-range LOW:HIGH"
        )
    return lines
