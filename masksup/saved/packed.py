"""A trained model into an archive, and back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from masksup.base.files import as_json, parse_json
from masksup.base.words import kind_of
from masksup.config.load import to_yaml, validate
from masksup.config.schema import Config
from masksup.config.yaml_text import parse_yaml
from masksup.data.reading import AS_EVER, Reading, reading_from_json
from masksup.decisions.calibration import fields, number
from masksup.decisions.decisions import Decisions, decisions_from_text
from masksup.errors import UserError
from masksup.runtime.machine import versions
from masksup.saved.archive import CARD, CONFIG, DECISIONS, MODEL, WEIGHTS, read_archive, write_archive


@dataclass(frozen=True)
class Packed:
    """What an archive holds: facts of `masksup.saved.open.Trained`, and the tensors of its network."""

    config: Config
    classes: tuple[str, ...]
    decisions: Decisions
    tensors: dict[str, Tensor]
    checkpoint: str
    sha256: str
    step: int
    epoch: float
    weights: Literal["live", "ema"]
    note: str
    reading: Reading = AS_EVER


_FACTS: dict[str, type | tuple[type, ...]] = {
    "checkpoint": str, "checkpoint_sha256": str, "step": int, "epoch": (int, float), "weights": str, "note": str,
    "classes": list, "versions": dict, "reading": dict,
}  # fmt: skip


def write_packed(file: Path, packed: Packed, card: str) -> None:
    """Write the archive: whole, or not at all."""
    facts = {
        "checkpoint": packed.checkpoint, "checkpoint_sha256": packed.sha256, "step": packed.step,
        "epoch": packed.epoch, "weights": packed.weights, "note": packed.note, "classes": list(packed.classes),
        "versions": versions(), "reading": packed.reading.to_json(),
    }  # fmt: skip
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in packed.tensors.items()}
    members = {
        CARD: card.encode(), CONFIG: to_yaml(packed.config).encode(),
        DECISIONS: _json(packed.decisions.to_json()), MODEL: _json(facts), WEIGHTS: safetensors.torch.save(tensors),
    }  # fmt: skip
    write_archive(file, members)


def read_packed(file: Path) -> Packed:
    """Everything in an archive, checked. UserError names the file, and the member that is wrong. Executes nothing."""
    members = read_archive(file)
    where = f"{file}: {MODEL}"
    tree = _parsed(parse_json, members[MODEL], where)
    if isinstance(tree, dict):  # older archives do not say
        tree.setdefault("reading", AS_EVER.to_json())
    facts = fields(tree, where, tuple(_FACTS))
    for key, kind in _FACTS.items():
        if not isinstance(facts[key], kind) or isinstance(facts[key], bool):
            raise UserError(f"{where}: {key}: found {facts[key]!r}")
    number(f"{where}: step", facts["step"])
    number(f"{where}: epoch", facts["epoch"])
    if facts["weights"] not in ("live", "ema"):
        raise UserError(f"{where}: weights: found {facts['weights']!r}, expected live or ema")
    tree = _parsed(parse_yaml, members[CONFIG], f"{file}: {CONFIG}")
    if not isinstance(tree, dict):
        raise UserError(f"{file}: {CONFIG}: found {kind_of(tree)}, expected a mapping of sections")
    config = validate(tree, f"{file}: {CONFIG}")
    try:
        tensors = safetensors.torch.load(members[WEIGHTS])
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{file}: {WEIGHTS}: broken safetensors ({error})") from None
    classes = tuple(map(str, facts["classes"]))
    decisions = decisions_from_text(members[DECISIONS], f"{file}: {DECISIONS}")
    if decisions.classes != classes or not decisions.fits(facts["checkpoint_sha256"], facts["weights"]):
        raise UserError(f"{file}: {DECISIONS}: is of another model than {MODEL}")
    return Packed(
        config, classes, decisions, tensors, facts["checkpoint"], facts["checkpoint_sha256"], facts["step"],
        float(facts["epoch"]), cast(Literal["live", "ema"], facts["weights"]), facts["note"],
        reading_from_json(facts["reading"], f"{where}: reading"),
    )  # fmt: skip


def _parsed(parse: Callable[[bytes], Any], data: bytes, where: str) -> Any:
    try:
        return parse(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: cannot be read: {' '.join(str(error).split())[:200]}") from None


def _json(tree: Any) -> bytes:
    return (as_json(tree, indent=1) + "\n").encode()
