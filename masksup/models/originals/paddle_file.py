"""Paddle's .pdparams: a pickle of names and numpy arrays, read by an unpickler that knows nothing else.

Nothing of numpy's own unpickling is called either: arrays and their types are rebuilt here from checked values.
"""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from masksup.base.files import open_regular
from masksup.base.words import reason
from masksup.errors import UserError

_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}
_NOT_TENSORS = "StructuredToParameterName@@"  # Paddle's table of its internal names


def read_paddle(path: Path) -> dict[str, Tensor]:
    """{name: tensor} of a .pdparams file. UserError for anything but names and plain numpy arrays."""
    try:
        with open_regular(path) as file:
            content = _Unpickler(file).load()
    except Exception as error:  # a broken pickle fails in any way
        raise UserError(
            f"{path}: not read, it is broken or holds more than names and numpy arrays ({reason(error)}); "
            "expected a .pdparams file of Paddle's paddle.save"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}, expected names and arrays")
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if key == _NOT_TENSORS and isinstance(value, dict):
            continue
        if not isinstance(key, str) or not isinstance(value, _Array) or value.array is None:
            raise UserError(f"{path}: found {type(value).__name__} under '{key}', expected names and arrays")
        tensors[key] = torch.from_numpy(value.array)
    return tensors


class _DType:
    """A numeric type, as numpy pickles it: a name, then a state that holds the byte order."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or name.lstrip("<=|") not in _TYPES:
            raise pickle.UnpicklingError(f"array of type {name!r}")
        self.name = name.lstrip("<=|")

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", "=", "|"):
            raise pickle.UnpicklingError(f"byte order {state[1]!r}")


class _Array:
    """An array, as numpy pickles it: made empty, then filled by a state of shape, type, order and bytes."""

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray[Any, np.dtype[Any]] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, raw = state
        self.array = _array(raw, dtype, shape, "F" if column_major else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, np.dtype[Any]]:
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes | bytearray) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array that is not of plain numbers")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError(f"an array of shape {shape!r}")
    flat = np.frombuffer(bytearray(raw), dtype.name)
    if len(flat) != math.prod(shape):
        raise pickle.UnpicklingError(f"{len(flat)} numbers for an array of shape {shape}")
    return np.array(flat.reshape(shape, order=order), order="C")


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    found = _Array()
    found.array = _array(raw, dtype, shape, order)
    return found


def _encode(text: Any, encoding: Any) -> bytes:
    """How pickle protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How pickle protocol 2 writes the content of an empty array."""
    return b""


_KNOWN: dict[str, Any] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    """Knows the few names that numpy arrays are made of, each of them replaced by a harmless one."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _KNOWN:
            raise pickle.UnpicklingError(f"found {module}.{name}")
        return _KNOWN[f"{module}.{name}"]
