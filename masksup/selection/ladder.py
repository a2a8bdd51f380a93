"""The ladder: the settings that are tried, from the cheapest up, and what has to pay before the next one is tried.

Each rung is an ordinary configuration. What a rung adds to the one below it is one thing, so that the table of a ladder
says what each thing is worth on these images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from masksup.base.words import counted

Settings = dict[str, Any]
_GRAIN = 32  # px: the stride of most networks


@dataclass(frozen=True)
class Rung:
    """One setting of the ladder."""

    name: str
    """Of its files, e.g. `head-224`."""
    title: str
    """For people."""
    settings: Settings
    """What `masksup train` reads, without the data."""
    passes: float
    """How often it trains on an image of the training part; 0 where it is solved from the features."""
    starts_from: str | None = None
    """The rung, of the same fold, whose network it begins with."""
    after: tuple[tuple[str, str], ...] = ()
    """Pairs of rungs: it is tried only where the first of each pair beat the second."""
    sure: bool = False
    """Whether it is always tried, whatever else there is time for."""
    unfit: str | None = None
    """Why this network cannot do it."""

    @property
    def size(self) -> int:
        return int(self.settings["model"]["size"])

    @property
    def pixels(self) -> float:
        """Of an image, at all scales at which the network sees it."""
        return self.size**2 * sum(4.0**-octave for octave in range(self.settings["model"].get("octaves", 1)))


@dataclass(frozen=True)
class StartingPoint:
    """What the user chose: network, weights and input side in px."""

    backbone: str
    weights: str
    size: int
    seed: int = 0
    any_side: bool = False
    """Whether the network takes images of other sides than it was built for."""
    linear_layers: bool = True
    """Whether it has linear layers, which LoRA adds to."""

    def scored_at(self, size: int) -> int:
        """Side at which a network is used that learnt from random parts at `size`, where objects look larger."""
        return _GRAIN * round(10 / 7 * size / _GRAIN) if self.any_side else size


def ladder(start: StartingPoint, robust: bool = False) -> tuple[Rung, ...]:
    """The rungs for a network, in the order in which they are tried: first a head on features as they are, then what
    changes the network. robust: MaskSup is one.

    A network without weights has no features worth a second look: its heads are solved, and no more.
    """
    small, large = start.size, 2 * start.size
    grows = (f"head-{large}", f"head-{small}")
    heads = [replace(_head(start, small), sure=True), _head(start, large)]
    if start.weights == "none":
        first, *more = [_from_scratch(start, small, 30), _from_scratch(start, small, 90, after=30)]
    else:
        heads += [_head_of_both(heads[-1], small)] if start.any_side else []
        heads += [_probe(start, small), _probe(start, large, (grows, (f"probe-{small}", f"head-{small}")))]
        heads.append(_lora(start, small))
        first = _finetuned(start, small)
        more = [_finetuned(start, large, (grows, (f"finetuned-{small}", f"head-{small}")))]
    if robust:  # its views have the side at which the network is used
        below = first if start.weights == "none" else _finetuned(replace(start, any_side=False), small)
        more.insert(0, _with_masksup(below))
    return (*heads, replace(first, sure=True), *more)


def _model(start: StartingPoint, size: int, **more: Any) -> Settings:
    return {"backbone": start.backbone, "weights": start.weights, "size": size, **more}


def _common(start: StartingPoint) -> Settings:
    return {"seed": start.seed, "augment": {"interpolation": "bicubic"}}


def _head(start: StartingPoint, size: int) -> Rung:
    settings = {
        **_common(start), "model": _model(start, size, frozen=True, head={"name": "linear"}),
        "optim": {"name": "lbfgs"},
    }  # fmt: skip
    return Rung(f"head-{size}", f"the head only, {size} px", settings, 0)


def _head_of_both(large: Rung, small: int) -> Rung:
    """On the mean of the features at both sides: large objects are seen whole at one, small ones at the other."""
    settings = {**large.settings, "model": {**large.settings["model"], "octaves": 2}}
    name, title = f"{large.name}-{small}", f"the head only, {large.size} and {small} px together"
    return replace(large, name=name, title=title, settings=settings)


def _probe(start: StartingPoint, size: int, after: tuple[tuple[str, str], ...] = ()) -> Rung:
    """Of a head that looks at positions, on the features that the solved head of this size has left."""
    settings = {
        **_common(start), "model": _model(start, size, frozen=True, head={"name": "attentive_probe"}),
        "epochs": 20, "batch": {"global": 16}, "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05},
        "schedule": {"name": "onecycle"},
    }  # fmt: skip
    return Rung(f"probe-{size}", f"an attentive head only, {size} px", settings, 20, after=after)


def _lora(start: StartingPoint, size: int) -> Rung:
    """As fine-tuning, of an addition to the linear layers. The head, which is there, keeps the rate of fine-tuning."""
    rung = _finetuned(start, size)
    optim = rung.settings["optim"]
    settings = {
        **rung.settings, "model": {**rung.settings["model"], "lora": {"rank": 8, "alpha": 16}},
        "optim": {**optim, "lr": 5 * optim["lr"], "head_factor": optim["head_factor"] / 5},
    }  # fmt: skip
    unfit = None if start.linear_layers else "the network has no linear layers"
    title = rung.title.replace("fine-tuning", "LoRA")
    return replace(rung, name=f"lora-{size}", title=title, settings=settings, unfit=unfit)


def _finetuned(start: StartingPoint, size: int, after: tuple[tuple[str, str], ...] = ()) -> Rung:
    """Of the whole network, which begins with the head that was solved: rates can be low, and nothing is unlearnt."""
    augment = {
        **_common(start)["augment"], "crop": "random_resized", "scale": [0.08, 1.0], "eval_resize": "center_crop",
        "crop_share": 1.0,
    }  # fmt: skip
    scored = start.scored_at(size)
    if scored != size:
        augment["size"] = size
    settings = {
        **_common(start), "augment": augment, "model": _model(start, scored), "epochs": 6, "batch": {"global": 16},
        "optim": {"name": "adamw", "lr": 1e-4, "head_factor": 1, "weight_decay": 0.01},
        "schedule": {"name": "onecycle"},
    }  # fmt: skip
    title = f"fine-tuning from the head at {size} px" + (f", used at {scored} px" if scored != size else "")
    return Rung(f"finetuned-{size}", title, settings, 6, starts_from=f"head-{size}", after=after)


def _with_masksup(rung: Rung) -> Rung:
    """The same with a second view of each image, more than half of it hidden.

    Fine-tuning takes twice as many epochs then: what was learnt before it stays, and holes take longer to learn.
    """
    longer = 1 if rung.starts_from is None else 2
    settings = {
        **rung.settings, "method": {"name": "masksup", "masks": "irregular", "level": "high"},
        "epochs": longer * rung.settings["epochs"],
    }  # fmt: skip
    title = f"{rung.title}, with MaskSup" + (f", {counted(settings['epochs'], 'epoch')}" if longer > 1 else "")
    return replace(
        rung, name=f"masksup-{rung.name}", title=title, settings=settings, passes=2 * longer * rung.passes,
    )  # fmt: skip


def _from_scratch(start: StartingPoint, size: int, epochs: int, after: int = 0) -> Rung:
    settings = {
        **_common(start), "model": _model(start, size), "epochs": epochs, "batch": {"global": 16},
        "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01}, "schedule": {"name": "onecycle"},
    }  # fmt: skip
    pays = ((f"trained-{after}", f"head-{size}"),) if after else ()
    return Rung(
        f"trained-{epochs}", f"the whole network, {size} px, {counted(epochs, 'epoch')}", settings, epochs, after=pays
    )


def waits_for(rung: Rung, gains: Mapping[tuple[str, str], bool]) -> tuple[str, str] | None:
    """The pair of rungs of which the first did not pay, so that this one is not tried. None: nothing speaks against
    it."""
    return next((pair for pair in rung.after if not gains.get(pair, False)), None)
