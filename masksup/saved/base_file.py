"""The backbone that LoRA adapts: one file in the run folder, of which every checkpoint holds the sha256.

It is a weight file like any other, with timm's names. A checkpoint holds what is added to it, and the head.
"""

import hashlib
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from masksup.base.files import NotAFile, file_sha256, sync, to_disk, written_whole
from masksup.errors import UserError
from masksup.models.weight_files import Tensors

BASE = "base.safetensors"


def write_base(run: Path, state: dict[str, Tensor]) -> str:
    """Write the file of the run folder `run`, whole and durable, or not at all. Its sha256. OSError as of the disk."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    content = safetensors.torch.save(tensors)
    with written_whole(run / BASE) as partial, partial.open("wb") as file:
        file.write(content)
        to_disk(file)
    sync(run)
    return hashlib.sha256(content).hexdigest()


def read_base(run: Path, sha256: str | None) -> Tensors:
    """The tensors in the file of `run`, every byte verified first: `sha256` is what a checkpoint says of it.

    UserError where it is not there, cannot be read, or is another file. Reading executes nothing.
    """
    file = run / BASE
    try:
        if file_sha256(file) != sha256:
            raise UserError(
                f"{file}: its sha256 is not the one in the checkpoint, which only adds to it (model.lora); expected "
                "the file as the run wrote it"
            )
        return safetensors.torch.load_file(file)
    except FileNotFoundError:
        raise UserError(
            f"{file}: no such file, but the checkpoints of this run only add to it (model.lora); put it back"
        ) from None
    except NotAFile:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise UserError(f"{file}: broken safetensors ({error})") from None
