"""How SLURM writes GPUs: a100:2, gpu:a100:2, gres/gpu:a100:2, gres:gpu:2(S:0-1)."""

import re

_GPUS = re.compile(r"(?:(?P<type>[A-Za-z][\w.-]*):)?(?P<count>\d+)")
_ENTRY = re.compile(r"(?:gres[:/])?gpu(?::(?P<type>[A-Za-z][\w.-]*))?(?:[:=](?P<count>\d+))?(?:\(.*\))?")


def read_gpus(text: str) -> tuple[str | None, int] | None:
    """(type or None, number) of `2` or `a100:2`; None where the text is neither."""
    found = _GPUS.fullmatch(text.strip())
    return (found["type"], int(found["count"])) if found else None


def gpus_in(gres: str) -> dict[str | None, int]:
    """GPUs by type, None for untyped ones, in a list of generic resources; empty where it has none."""
    found: dict[str | None, int] = {}
    for entry in re.sub(r"\([^)]*\)", "", gres).split(","):
        match = _ENTRY.fullmatch(entry.strip())
        if match:
            found[match["type"]] = found.get(match["type"], 0) + int(match["count"] or 1)
    return found
