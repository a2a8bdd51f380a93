"""Opening an exported ONNX file: whole, written by `masksup export`, and for this device."""

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from masksup.base.files import open_regular
from masksup.base.words import counted, reason
from masksup.errors import UserError
from masksup.inference.card import INPUT, KEY, LOGITS, Card, card_from_text

Device = Literal["cpu", "cuda"]
_EXPECTED = "expected a file written by masksup export --format onnx"


@dataclass(frozen=True)
class Exported:
    """A model that is ready to run."""

    card: Card
    session: Any  # of onnxruntime, which has no types

    def logits(self, images_B3SS: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 images, as many as there are, to logits float32 B x C. UserError where it gives others."""
        logits_BC: NDArray[np.float32] = self.session.run([LOGITS], {INPUT: images_B3SS})[0]
        expected = (len(images_B3SS), len(self.card.decisions.classes))
        if logits_BC.shape != expected:  # whatever the file said of it
            raise UserError(f"the network's output: found numbers of shape {logits_BC.shape}, expected {expected}")
        return logits_BC


def open_exported(path: Path, device: Device = "cpu", threads: int = 0) -> Exported:
    """Read and check an exported file. `threads` 0: onnxruntime's own choice, one a core.

    UserError if onnxruntime is missing or has no such device, or if the file is none, another one, or was changed.
    """
    _check_seal(path)
    session = new_session(str(path), device, threads, str(path))
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None:
        raise UserError(f"{path}: found no metadata of masksup in it, {_EXPECTED}")
    card = card_from_text(text, str(path))
    shapes = {found.name: (found.shape, found.type) for found in (*session.get_inputs(), *session.get_outputs())}
    size, classes = card.preprocessing.size, len(card.decisions.classes)
    if INPUT not in shapes or shapes[INPUT][0][1:] != [3, size, size] or shapes[INPUT][1] != "tensor(uint8)":
        raise UserError(f"{path}: its input is not uint8 images of 3 x {size} x {size}, as its metadata say")
    if LOGITS not in shapes or shapes[LOGITS][0][1:] != [classes]:
        raise UserError(f"{path}: its output is not the logits of {counted(classes, 'class')}, as its metadata say")
    return Exported(card, session)


def new_session(model: str | bytes, device: Device, threads: int, where: str) -> Any:
    """An onnxruntime session of a file or of a serialised model; `where` names it in errors."""
    ort = import_onnxruntime()
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if provider not in ort.get_available_providers():
        raise UserError(
            f"--device: found {device}, but the installed onnxruntime has no {provider}; expected cpu, "
            "or onnxruntime-gpu in its place"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    providers = [provider] if device == "cpu" else [provider, "CPUExecutionProvider"]
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its errors share no class; the file is what is wrong
        raise UserError(f"{where}: onnxruntime cannot read it ({reason(error)}), {_EXPECTED}") from error
    if provider not in session.get_providers():  # onnxruntime itself goes on without a GPU, and says so in a log
        raise UserError(f"--device: found {device}, but onnxruntime could not use it on this machine; expected cpu")
    return session


def import_onnxruntime() -> Any:
    """UserError where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "onnxruntime is not installed, expected it for exported models: pip install onnxruntime "
            "(or the extra: pip install 'masksup[export]')"
        ) from None
    return onnxruntime


# The last metadata entry of a file, written as ONNX itself would, is the sha256 of everything before it. So a change of
# weights, metadata or graph is seen, and no parser is needed.
SEAL_KEY = "masksup_sha256"


def seal(content: bytes) -> bytes:
    """The bytes to append to a serialised model: one more entry of its metadata (field 14 of ModelProto)."""
    digest, key = hashlib.sha256(content).hexdigest().encode(), SEAL_KEY.encode()
    entry = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(digest)]) + digest
    return b"\x72" + bytes([len(entry)]) + entry


def _check_seal(path: Path) -> None:
    length = len(seal(b""))
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            last = content[-length:]
            if len(content) <= length or last[:-64] != seal(b"")[:-64]:
                raise UserError(f"{path}: found no exported model in it, {_EXPECTED}")
            with memoryview(content) as view:
                found = hashlib.sha256(view[:-length]).hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, {_EXPECTED}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, {_EXPECTED}") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: found an empty file, {_EXPECTED}") from None
    if found != last[-64:].decode("ascii", "replace"):
        raise UserError(f"{path}: was changed after its export (its sha256 differs), expected it as it was written")
