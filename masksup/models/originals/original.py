"""What a file of the originals says of itself."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masksup.base.words import counted
from masksup.models.originals.kinds import TITLES, Kind
from masksup.models.weight_files import Tensors


@dataclass
class Original:
    """A file of an original project, under this project's names.

    backbone: timm's name.  trunk: its tensors.  names: their names in the file.  heads: tensors of the head.
    size: side of the input in pixels where the file tells it.  needs: names of the settings that it leaves open.
    head, method, model, augment: settings that follow from the kind.  dropped: key -> why.
    assumed: what is not known of the kind and had to be assumed.
    """

    kind: Kind
    path: Path
    backbone: str
    trunk: Tensors
    names: dict[str, str]
    dropped: dict[str, str]
    changed: tuple[str, ...]
    size: int | None = None
    classes: int = 0
    head: dict[str, Any] = field(default_factory=dict)
    heads: Tensors = field(default_factory=dict)
    method: dict[str, Any] = field(default_factory=lambda: {"name": "baseline"})
    model: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """For people: what the file is, as far as it tells."""
        parts = [TITLES[self.kind], self.backbone, counted(self.classes, "class")]
        if "heads" in self.head:
            parts.append(counted(self.head["heads"], "head"))
        if self.size is not None:
            parts.append(f"{self.size} px")
        return ", ".join(parts)
