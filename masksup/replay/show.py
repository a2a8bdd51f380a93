"""What a replayed step was: lines for people, a file of facts, and pictures of what the network saw."""

import math
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from masksup.base.files import as_json, finite, write_atomically
from masksup.base.words import counted
from masksup.replay.again import Replayed

_COLUMNS, _WORST = 8, 10


def lines(replayed: Replayed) -> list[str]:
    """The table that a person reads."""
    found = replayed
    said = [
        f"step {found.step} of {found.steps}, reached from {found.began}: {counted(found.redone, 'step')} done again",
        f"loss {found.loss:.6g}, gradient norm {found.gradient_norm:.6g}, learning rate {found.learning_rate:.3g}",
        _recorded(found),
    ]
    if not found.applied:
        said.append("the gradient is not finite: this step changed no weight")
    said.append("micro-batch  images  gradient norm  mean loss")
    for at, part in enumerate(found.micro_batches):
        each = [loss for _, loss in part.of_each()]
        mean = f"{sum(each) / len(each):.6g}" if each else ""
        said.append(f"{at:>11}  {len(part.samples):>6}  {part.gradient_norm:>13.6g}  {mean:>9}")
    worst = sorted(
        ((loss, sample, at) for at, part in enumerate(found.micro_batches) for sample, loss in part.of_each()),
        key=lambda row: (math.isfinite(row[0]), -row[0]),
    )
    if worst:
        said.append(f"the highest losses of {counted(len(worst), 'image')}:")
        said += [f"  {loss:<12.6g} {sample}  (micro-batch {at})" for loss, sample, at in worst[:_WORST]]
    return said


def _recorded(found: Replayed) -> str:
    if found.recorded is None:
        return f"metrics.jsonl has no row of step {found.step} (log.every_steps) to compare with"
    if found.same:
        return "metrics.jsonl has the same loss and gradient norm, bit for bit"
    there = {key: found.recorded.get(key) for key in ("loss", "gradient_norm")}
    return (
        f"WARNING: metrics.jsonl has loss {there['loss']} and gradient norm {there['gradient_norm']}: another device, "
        "number of threads or version computed them, or the data or weights that the run began with have changed"
    )


def write(replayed: Replayed, folder: Path) -> list[Path]:
    """`replay.json`, and a picture of each pass of the network. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "replay.json"]
    write_atomically(files[0], as_json(finite(_facts(replayed)), indent=1) + "\n")
    for at, part in enumerate(replayed.micro_batches):
        for number, images in enumerate(part.seen, 1):
            files.append(folder / f"micro-{at:02d}-pass-{number}.png")
            to_pil_image(_sheet(images)).save(files[-1])
    return files


def _facts(replayed: Replayed) -> dict[str, Any]:
    facts = {key: value for key, value in vars(replayed).items() if key != "micro_batches"}
    parts = [
        {
            "gradient_norm": part.gradient_norm,
            "images": [{"id": sample, "loss": loss} for sample, loss in part.of_each()],
        }
        for part in replayed.micro_batches
    ]
    return {**facts, "same": replayed.same, "micro_batches": parts}


def _sheet(images_B3SS: Tensor) -> Tensor:
    """The images in reading order, as they stand in the micro-batch."""
    shown = images_B3SS.float() / 255 if not images_B3SS.is_floating_point() else images_B3SS.float()
    sheet: Tensor = make_grid(shown.clamp(0, 1), nrow=_COLUMNS, padding=2, pad_value=1.0)
    return sheet
