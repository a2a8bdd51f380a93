"""JSON of unknown origin: parsed and checked, with errors that name the place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masksup.base.files import read_regular
from masksup.data.prepare.options import MAX_NUMBER
from masksup.errors import UserError

Kind = type | tuple[type, ...]


def read_json(file: Path, each: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file in UTF-8, -16 or -32. UserError naming file and line if it is missing or malformed.

    `each`: what an object becomes as soon as it is read.
    """
    text = _text(file)
    try:
        return json.loads(text, object_hook=each)
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: malformed JSON ({error.msg})") from error
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{file}: malformed JSON ({str(error).split(':')[0]}), expected annotations") from error
    except RecursionError as error:
        raise UserError(f"{file}: found JSON nested too deeply, expected annotations") from error


def _text(file: Path) -> str:
    try:
        data = read_regular(file)
        return data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: found bytes that are no {error.encoding.upper()} (at {error.start}), expected JSON as text; "
            "save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}, expected a readable text file") from error


# What other programs write: a key of theirs, and what to do.
_OTHERS = {
    "_via_img_metadata": "a project of the VGG Image Annotator; `prepare via` reads it",
    "regions": "an export of the VGG Image Annotator; `prepare via` reads it",
    "shapes": "a file of LabelMe; `prepare labelme` reads a folder of them",
    "data": "an export of Label Studio; export as COCO, or of labels of images as CSV for `prepare csv`",
    "caption": "captions, which have no classes; take the instances",
    "conversations": "conversations, which have no classes",
}


def _written_by(content: Any) -> str:
    """What the content seems to be where it is none of COCO."""
    inner = content.get("annotations", content) if isinstance(content, dict) else content
    values = list(inner.values())[:1] if isinstance(inner, dict) else inner[:1] if isinstance(inner, list) else []
    keys = [key for one in (content, *values) if isinstance(one, dict) for key in one]
    return next((f" (this is {_OTHERS[key]})" for key in keys if key in _OTHERS), "")


def records(file: Path, content: Any, key: str, fields: dict[str, Kind]) -> list[dict[str, Any]]:
    """The list `content[key]`, each item an object with `fields` of these types. Else UserError."""
    items = content.get(key) if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise UserError(f"{file}: found no list '{key}', expected an object that holds one{_written_by(content)}")
    for number, item in enumerate(items):
        for field, kind in fields.items():
            value = item.get(field) if isinstance(item, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                expected = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
                raise UserError(
                    f"{file}: {key}[{number}]: found '{field}' = {json.dumps(value)[:60]}, expected {expected}"
                )
    return items


def number_list(where: str, value: Any, length: int) -> list[float]:
    """`value` if it is a list of `length` numbers of at most MAX_NUMBER. Else UserError naming `where`."""
    if (
        isinstance(value, list)
        and len(value) == length
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= MAX_NUMBER for v in value)
    ):
        return value
    raise UserError(
        f"{where}: found {json.dumps(value)[:60]}, expected {length} numbers (none beyond {MAX_NUMBER:.0e})"
    )
