"""A trained model from a run folder or a checkpoint: what `eval`, `predict` and `model.weights` start from."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from masksup.base.log import log
from masksup.config.load import validate
from masksup.config.schema import Config
from masksup.data.decode import decode_bytes
from masksup.data.reading import AS_EVER, Reading, reading_from_json
from masksup.data.url import Source, read_source
from masksup.decisions.decisions import Decisions
from masksup.engine.build import new_method, new_network
from masksup.engine.state import load_network
from masksup.errors import UserError
from masksup.methods.method import Method
from masksup.models.lora import merged
from masksup.models.network import Network
from masksup.runtime.checkpoint import META, Damaged, State, checkpoint_sha256, list_checkpoints, read_checkpoint
from masksup.saved.base_file import BASE, read_base
from masksup.saved.packed import read_packed
from masksup.saved.running import Running

WhichWeights = Literal["auto", "live", "ema"]


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode and the facts that its scores have to name."""

    config: Config
    classes: tuple[str, ...]
    network: Network
    method: Method
    checkpoint: str
    """Name of the checkpoint, with its run, e.g. "shapes/step-000000940-a01"."""
    sha256: str
    """Of the checkpoint's tensors."""
    step: int
    epoch: float
    weights: Literal["live", "ema"]
    run: Path | None
    """The run folder it lies in."""
    note: str
    """What to say wherever a score is shown, e.g. that the training data is synthetic."""
    packed: Decisions | None = None
    """What was packed with it; a run keeps its decisions in its folder."""
    reading: Reading = AS_EVER
    """How the images that it was trained on were read."""

    def reads(self, file: Source) -> Tensor:
        """An image as the training read its own: uint8 RGB 3HW. Raises as `masksup.data.decode.decode`."""
        return self.reads_bytes(read_source(file), str(file))

    def reads_bytes(self, data: bytes, name: str) -> Tensor:
        """The same for the bytes of a file; `name` stands for it in errors."""
        reading, most = self.reading, self.config.data.max_pixels
        return decode_bytes(data, name, exif=reading.exif, max_pixels=most, pixel_range=reading.pixel_range)

    def run_as(self, running: Running) -> "Trained":
        """The same, with the device, batch and threads that are to be used here in its configuration."""
        return replace(self, config=running.over(self.config))


def is_run(path: Path) -> bool:
    """Whether `path` is a run folder or a checkpoint of this program."""
    return (path / "config.yaml").is_file() or (path / META).is_file()


def open_trained(path: Path, weights: WhichWeights = "auto") -> Trained:
    """Build and fill the model in `path`: a checkpoint, an archive of `masksup pack`, or a run folder, of which the
    best checkpoint is taken (the newest where none was chosen), and never another one in its place. Verified first;
    reading executes nothing. UserError names what is wrong.
    """
    if not path.exists():
        raise UserError(f"{path}: no such run folder or checkpoint")
    if path.is_file():
        return _unpacked(path, weights)
    if not is_run(path):
        raise UserError(f"{path}: found no config.yaml or {META} in it, expected a run folder or a checkpoint")
    folder, state = (path, read_checkpoint(path)) if (path / META).is_file() else _read_chosen(path)
    try:
        meta, classes = state.meta, tuple(str(name) for name in state.meta["classes"])
        step, epoch, note = int(meta["step"]), float(meta["epoch"]), str(meta["note"])
        tree = meta["config"]
        reading = reading_from_json(meta.get("reading"), str(folder / META))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / META}: not written by this program: {error!r}") from None
    if "imported" in meta:  # it may rest on assumptions, which belong to every score
        log.info(note)
    config = validate(tree, str(folder / META))
    kind = config.eval_weights if weights == "auto" else weights
    if kind == "ema" and config.ema.decay == 0:
        raise UserError(f"{path}: --weights: found ema, but this run kept no moving average; expected live")
    network = new_network(config, len(classes))
    tensors = state.part("model")
    if kind == "ema":
        tensors |= state.part("ema")
    load_network(network, _whole(folder, state, tensors, config), str(folder))
    method = new_method(config, network, len(classes), None).eval()
    resolved = folder.resolve()
    run = resolved.parent.parent if resolved.parent.name == "checkpoints" else None
    run = run if run is not None and (run / "config.yaml").is_file() else None
    name = f"{run.name}/{resolved.name}" if run is not None else resolved.name
    sha256 = checkpoint_sha256(folder)
    return Trained(config, classes, network, method, name, sha256, step, epoch, kind, run, note, reading=reading)


def _whole(checkpoint: Path, state: State, kept: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The network's state from what the checkpoint keeps of it: under LoRA, merged with the file of its run folder."""
    if not config.model.lora.rank:
        return kept
    run = checkpoint.resolve().parent.parent
    base = read_base(run, (state.meta.get("at") or {}).get("base_sha256"))
    try:
        return merged(base, kept, config.model.lora.scale)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{checkpoint}: does not fit {run / BASE}: {' '.join(str(error).split())[:200]}") from None


def _unpacked(file: Path, weights: WhichWeights) -> Trained:
    packed = read_packed(file)
    if weights not in ("auto", packed.weights):
        raise UserError(f"{file}: --weights: found {weights}, but this archive holds only the {packed.weights} weights")
    network = new_network(packed.config, len(packed.classes))
    load_network(network, packed.tensors, str(file))
    method = new_method(packed.config, network, len(packed.classes), None).eval()
    return Trained(
        packed.config, packed.classes, network, method, packed.checkpoint, packed.sha256, packed.step, packed.epoch,
        packed.weights, None, packed.note, packed.decisions, packed.reading,
    )  # fmt: skip


def at_checkpoint(path: Path, name: str | None) -> Path:
    """What `--checkpoint` names of the run in `path`: a checkpoint, `best` or `latest`; None: the run itself."""
    if name is None:
        return path
    folder = path / "checkpoints"
    if not (path / "config.yaml").is_file():
        raise UserError(f"--checkpoint: found with {path}, which is no run folder; a run has several to choose from")
    if name not in ("best", "latest", *(found.name for found in list_checkpoints(folder))):
        raise UserError(f"--checkpoint: found {name}, expected best, latest or {_others(folder)}")
    return folder / name


def _read_chosen(run: Path) -> tuple[Path, State]:
    """The best checkpoint of a run, or the newest where none was chosen. Never another one in its place."""
    folder = run / "checkpoints"
    best, there = folder / "best", list_checkpoints(folder)
    if not best.is_symlink() and not best.exists():
        if not there:
            raise UserError(f"{run}: found no checkpoint in it yet; train further first")
        state = _read_or_refuse(there[0])
        chosen = (state.meta.get("at") or {}).get("best")  # a copy of a run may have lost its links
        if chosen is None or chosen["checkpoint"] == there[0].name:
            return there[0], state
        best = folder / str(chosen["checkpoint"])
    elif best.is_symlink():
        best = folder / best.readlink()
    return best, _read_or_refuse(best)


def _read_or_refuse(checkpoint: Path) -> State:
    problem = f"{checkpoint}: the best checkpoint is gone"
    if checkpoint.exists():
        try:
            return read_checkpoint(checkpoint)
        except Damaged as error:
            problem = str(error)
    others = _others(checkpoint.parent, but=checkpoint.name)
    raise UserError(f"{problem}; name another one with --checkpoint: {others}")


def _others(folder: Path, but: str = "") -> str:
    names = [path.name for path in list_checkpoints(folder) if path.name != but]
    return ", ".join(names) or "none, as there is no other"
