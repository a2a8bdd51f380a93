"""The files of `configs/` as a list: what each trains, what was published and what was measured here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from masksup.config.load import load_config
from masksup.config.schema import Config
from masksup.errors import UserError, nearest

_PLAIN = ("baseline", "linear", "bce")  # parts that give a recipe no name of its own


@dataclass(frozen=True)
class Recipe:
    """One file that `masksup train` takes."""

    data: str
    parts: tuple[str, ...]
    """Family (folder), method, head and loss, without the plain ones among the last three."""
    backbone: str
    size: int
    published: str | None
    measured: str | None
    memory: str | None
    """Of a training here, where it was measured."""
    file: Path


def find_recipes(folder: Path | None = None) -> list[Recipe]:
    """All recipes below `folder`; None: of the current folder's `configs`, else those that come with the program.

    UserError where none are.
    """
    places = [folder] if folder else [Path("configs"), Path(__file__).parents[1] / "configs"]
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        raise UserError(
            "configs: no such folder here; run from the folder of the checkout, or name one by --configs DIR"
        )
    return [_read(file) for file in sorted(place.glob("*/*.yaml")) if _is_recipe(file)]


def chosen(recipes: list[Recipe], data: str | None, method: str | None) -> list[Recipe]:
    """Those on this data set and with this family, method, head or loss. UserError for what none has."""
    for option, wanted, known in (
        ("--data", data, {recipe.data for recipe in recipes}),
        ("--method", method, {part for recipe in recipes for part in recipe.parts}),
    ):
        if wanted is not None and wanted not in known:
            raise UserError(f"{option}: no recipe for '{wanted}'; {nearest(wanted, known)}")
    found = [r for r in recipes if data in (None, r.data) and (method is None or method in r.parts)]
    if not found:
        others = sorted({recipe.data for recipe in recipes if method in recipe.parts})
        raise UserError(f"--method {method}: no recipe on {data}; there are some on {', '.join(others)}")
    return found


def _is_recipe(file: Path) -> bool:
    return file.parent.name != "sweeps" and not file.stem.startswith("base")


def _read(file: Path) -> Recipe:
    config, head = load_config(file)[0], " ".join(_head_lines(file))
    published = re.search(r"Published: (mAP [\d.]+)", head)
    measured = re.search(r"Measured (?:here )?\d{4}-\d\d-\d\d.*?: (?:val )?(mAP [\d.]+(?: \+- [\d.]+)?)", head)
    memory = re.search(r"Memory: ([\d.]+ [GM]B)", head)
    return Recipe(
        Path(config.data.train).parent.name, (file.parent.name, *_parts(config)), config.model.backbone,
        config.model.size, published[1] if published else None, measured[1] if measured else None,
        memory[1] if memory else None, file,
    )  # fmt: skip


def _head_lines(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line.removeprefix("#").strip()


def _parts(config: Config) -> list[str]:
    base = (config.method.options.get("base") or {}).get("name", "baseline")
    names = (config.method.name, base, config.model.head.name, config.loss.name)
    return [name for name in names if name not in _PLAIN] or ["linear"]
