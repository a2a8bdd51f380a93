"""A run that adapts its backbone by LoRA: the file of what is adapted, and the merged network that is scored."""

from pathlib import Path

from torch import Tensor

from masksup.config.schema import Config
from masksup.engine.ema import copy_values
from masksup.engine.state import refuse_other_model
from masksup.errors import UserError
from masksup.methods.method import Method
from masksup.models.backbones import Backbone
from masksup.models.lora import base_state, merged
from masksup.saved.base_file import BASE, read_base, write_base
from masksup.training.run import Run


def refuse_copies(config: Config, method: Method) -> None:
    """UserError for a method whose own state holds the backbone once more."""
    if method.own_state():
        raise UserError(
            f"model.lora.rank: found {config.model.lora.rank}, but method {config.method.name} keeps a copy of the "
            "weights, which is not adapted; expected another method, or model.lora.rank=0"
        )


def keep_base(run: Run) -> None:
    """Write what is adapted into the folder of a run that has just begun. Collective."""
    group = run.group
    group.beat_without_limit("waiting for the disk")
    with group.together():
        if group.first:
            run.folder.refuse_replaced()
            run.progress.base_sha256 = write_base(run.folder.path, base_state(run.network.backbone))
    run.progress.base_sha256 = group.broadcast(run.progress.base_sha256)


def put_base(run_dir: Path, sha256: str | None, backbone: Backbone) -> None:
    """Put back what is adapted, after a checkpoint, which says its sha256. UserError where it is another's."""
    saved, own = read_base(run_dir, sha256), base_state(backbone)
    refuse_other_model(own, saved, str(run_dir / BASE))
    copy_values(saved, own)


def as_scored(run: Run, kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the engine keeps, live or averaged, as the state of the network that is scored."""
    if not run.config.model.lora.rank:
        return kept
    return merged(base_state(run.network.backbone), kept, run.config.model.lora.scale)
