"""What an exported file says of itself: how an image is prepared, how logits become labels, where it comes from."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from masksup.base.files import as_json, parse_json
from masksup.base.words import kind_of
from masksup.data.reading import SIXTEEN_BITS, range_from_text, range_text
from masksup.decisions.calibration import fields, number, numbers, whole
from masksup.decisions.decisions import Decisions
from masksup.errors import UserError

FORMAT = "masksup export 1"
KEY = "masksup"  # of the metadata entry that holds the card, as JSON
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
INPUT = "images"
LOGITS = "logits"


@dataclass(frozen=True)
class Preprocessing:
    """From an image file to the file's input, uint8 RGB of B x 3 x size x size.

    `mean` and `std`, of pixels in 0..1, are stated for people: the file normalises by itself.
    """

    size: int
    """Side of the square input, pixels."""
    resize: Literal["squish", "center_crop", "top_left"]
    """Stretch to the square; resize the shorter side and cut out the centre; or take the top left square as it is."""
    interpolation: Literal["bilinear", "bicubic"]
    """Of the resize, which is antialiased."""
    crop_share: float
    """center_crop: side of the input over the resized shorter side."""
    fill: tuple[int, int, int]
    """top_left: colour where there is no image."""
    exif: bool
    """Whether an image is turned as its EXIF orientation says."""
    max_pixels: int
    """Larger images are refused."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: str = range_text(SIXTEEN_BITS)
    """LOW:HIGH, the values of pictures of more than 8 bits that become 0 and 255; auto: of each file its own."""


@dataclass(frozen=True)
class Card:
    """`facts`: model, checkpoint, protocol, versions and check, for people; nothing is computed from them."""

    preprocessing: Preprocessing
    decisions: Decisions
    precision: Precision
    batch: int
    """Images a forward pass, with which the run was scored; the file takes any number."""
    facts: dict[str, Any]

    def to_text(self) -> str:
        """As JSON."""
        tree = {
            "format": FORMAT, "precision": self.precision, "batch": self.batch,
            "preprocessing": asdict(self.preprocessing), "decisions": self.decisions.to_json(), "facts": self.facts,
        }  # fmt: skip
        return as_json(tree, indent=1)


def card_from_text(text: str, where: str) -> Card:
    """From JSON. UserError names `where` and what is unknown, missing or of the wrong kind."""
    try:
        tree = parse_json(text)
    except ValueError as error:
        raise UserError(f"{where}: its metadata are not JSON: {error}") from None
    if isinstance(tree, dict) and tree.get("format") != FORMAT:
        raise UserError(f"{where}: format: found {tree.get('format')!r}, expected {FORMAT!r}")
    given = fields(tree, f"{where}: metadata", ("format", "precision", "batch", "preprocessing", "decisions", "facts"))
    if given["precision"] not in PRECISIONS:
        raise UserError(f"{where}: precision: found {given['precision']!r}, expected one of {', '.join(PRECISIONS)}")
    return Card(
        _preprocessing(given["preprocessing"], f"{where}: preprocessing"),
        Decisions.from_json(given["decisions"], f"{where}: decisions"),
        given["precision"], whole(f"{where}: batch", given["batch"]), _facts(given["facts"], f"{where}: facts"),
    )  # fmt: skip


def _facts(tree: Any, where: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise UserError(f"{where}: found {kind_of(tree)}, expected an object")
    return tree


def _preprocessing(tree: Any, where: str) -> Preprocessing:
    if isinstance(tree, dict):  # older files do not say
        tree = {"pixel_range": range_text(SIXTEEN_BITS), **tree}
    given = fields(tree, where, tuple(Preprocessing.__dataclass_fields__))
    range_from_text(str(given["pixel_range"]), f"{where}.pixel_range")
    known = {"resize": ("squish", "center_crop", "top_left"), "interpolation": ("bilinear", "bicubic")}
    for key, names in known.items():
        if given[key] not in names:
            raise UserError(f"{where}.{key}: found {given[key]!r}, expected one of {', '.join(names)}")
    for key in ("size", "max_pixels"):
        whole(f"{where}.{key}", given[key])
    number(f"{where}.crop_share", given["crop_share"], above=0, within=(0, 1))
    if not isinstance(given["exif"], bool):
        raise UserError(f"{where}.exif: found {given['exif']!r}, expected true or false")
    colours = {key: _colour(given[key], f"{where}.{key}") for key in ("fill", "mean", "std")}
    for part in colours["fill"]:
        if not isinstance(part, int) or not 0 <= part <= 255:
            raise UserError(f"{where}.fill: found {part!r}, expected whole numbers from 0 to 255")
    return Preprocessing(**{**given, **colours})


def _colour(value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise UserError(f"{where}: found {kind_of(value)}, expected a list of numbers")
    numbers(where, value, 3)
    return tuple(value)
