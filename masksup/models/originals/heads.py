"""The tensors of the originals' heads under this project's names, and the settings that follow from them.

Each function takes the head's tensors by the names in the file and refuses what is missing or left over.
"""

import re

import torch
from torch import Tensor

from masksup.errors import UserError
from masksup.models.heads.csra import TEMPERATURES
from masksup.models.originals.kinds import TITLES
from masksup.models.originals.original import Original
from masksup.models.weight_files import Tensors

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

ASSUMED_448 = (
    "head1 to head8 are the temperatures 1 to 7 and the maximum, in that order",
    "the bias of each is added before the division by the norm, so it takes part in the attention",
    "head takes no part",
    "the heads see the patch tokens after the final norm; its score on COCO val, 86.5 or 86.9 mAP, is the test",
)


def csra_heads(found: Original, head: Tensors) -> None:
    """K heads of weights [C,D,1,1], stored raw; head k has the k-th temperature of the list for K (sections 1 to 3)."""
    if found.kind == "csra_vit_448":
        numbers, weight, first = range(1, 9), "head{}.weight", "head1"
        for key in [key for key in head if re.match(r"head\.", key)]:
            found.dropped[key] = "takes no part, by assumption"
            del head[key]
        biases: Tensor | None = _stacked(found, head, "head{}.bias", numbers, 1)
        found.assumed = ASSUMED_448
    else:
        pattern = re.compile(r"classifier\.multi_head\.(\d+)\.head\.weight$")
        numbers = range(sum(1 for key in head if pattern.match(key)))
        weight, first, biases = "classifier.multi_head.{}.head.weight", "classifier.multi_head.0", None
        if len(numbers) not in TEMPERATURES:
            known = ", ".join(map(str, TEMPERATURES))
            raise UserError(f"{found.path}: found {len(numbers)} heads ({first}, ...), expected {known}")
    weight_KCD = _stacked(found, head, weight, numbers, 2)
    _refuse_left_over(found, head)
    _refuse_no_norm(found, weight_KCD, [weight.format(number) for number in numbers])
    found.classes = weight_KCD.shape[1]
    found.head = {"name": "csra", "heads": len(numbers)}
    found.heads["weight"] = weight_KCD
    if biases is not None:
        found.head["bias"] = True
        found.heads["bias"] = biases
    found.needs = ("lam", "normalization", "classes") + (() if found.size else ("size",))


def mcar_head(found: Original, head: Tensors) -> None:
    """One classifier with bias for both streams; it localises by the rule of the published code (section 5)."""
    _linear(found, head, "convclass", bias=True)
    found.method = {"name": "mcar", "compat": "original"}
    found.model = dict(IMAGENET)
    found.needs = ("pool", "top", "threshold", "size", "classes")


def tresnet_head(found: Original, head: Tensors) -> None:
    """Mean over positions, then a linear layer with bias; never a CSRA head (section 4)."""
    _linear(found, head, "head.fc", bias=True)
    found.head["pool"] = "avg"
    found.needs = ("size", "normalization", "classes")


def puzzle_head(found: Original, head: Tensors) -> None:
    """Scores at every position of a trunk whose last stage keeps its size (section 6); OASS also has a batch norm and
    a convolution for each class, and evaluates with those (section 7). Both see the top left of the image, cut or
    filled up with the mean colour."""
    if found.kind == "puzzle":
        _linear(found, head, "classifier", bias=False)
        found.head["pool"] = "avg"
    else:
        _csi(found, head)
    found.model = {**IMAGENET, "last_stage_stride": 1}
    found.augment = {"eval_resize": "top_left"}
    found.needs = ("size", "classes")


def _csi(found: Original, head: Tensors) -> None:
    found.heads["classifier.weight"] = _take(found, head, "classifier.weight", 2)
    found.classes = len(found.heads["classifier.weight"])
    numbers = range(found.classes)
    rows = _stacked(found, head, "stage6.{}.weight", numbers, 2)
    found.heads["score"] = rows.flatten(0, 1)
    for part in ("weight", "bias", "running_mean", "running_var"):
        found.heads[f"norm.{part}"] = _stacked(found, head, f"BN.{{}}.{part}", numbers, 1).flatten()
    names = [name for name in (f"BN.{n}.num_batches_tracked" for n in numbers) if name in head]
    counters = [head.pop(name) for name in names if head[name].ndim == 0]
    if counters:  # all classes see the same batches
        found.heads["norm.num_batches_tracked"] = torch.stack(counters).amax()
    _refuse_left_over(found, head)
    found.head = {"name": "csi"}


def _linear(found: Original, head: Tensors, name: str, *, bias: bool) -> None:
    weight = _take(found, head, f"{name}.weight", 2)
    found.heads["fc.weight"] = weight
    if bias:
        found.heads["fc.bias"] = _take(found, head, f"{name}.bias", 1)
    _refuse_left_over(found, head)
    found.classes = len(weight)
    found.head = {"name": "linear", "bias": bias}


def _take(found: Original, head: Tensors, key: str, dimensions: int) -> Tensor:
    """The tensor `key`, removed from `head`; a 1x1 convolution loses its two sides."""
    if key not in head:
        raise UserError(f"{found.path}: {TITLES[found.kind]}: found no {key}, expected it")
    value = head.pop(key)
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    if value.ndim != dimensions or not value.is_floating_point() or 0 in value.shape:
        shape = "[classes,width] or [classes,width,1,1]" if dimensions == 2 else "[classes]"
        raise UserError(f"{found.path}: {key} has the shape {list(value.shape)}, expected {shape}")
    return value.float()


def _stacked(found: Original, head: Tensors, pattern: str, numbers: range, dimensions: int) -> Tensor:
    """The tensors of all `numbers` under the names that `pattern` gives them, removed from `head`, as one."""
    names = [pattern.format(number) for number in numbers]
    values = [_take(found, head, name, dimensions) for name in names]
    for name, value in zip(names, values, strict=True):
        if value.shape != values[0].shape:
            expected = f"{list(values[0].shape)} as {names[0]} has"
            raise UserError(f"{found.path}: {name} has the shape {list(value.shape)}, expected {expected}")
    return torch.stack(values)


def _refuse_no_norm(found: Original, weight_KCD: Tensor, names: list[str]) -> None:
    """CSRA divides the scores of a class by the norm of its classifier."""
    empty = (weight_KCD.norm(dim=-1) == 0).nonzero().tolist()
    for head, row in empty:
        raise UserError(
            f"{found.path}: {names[head]}: found only zeros in row {row}, expected a norm above 0: CSRA divides by it"
        )


def _refuse_left_over(found: Original, head: Tensors) -> None:
    if head:
        name = TITLES[found.kind]
        raise UserError(
            f"{found.path}: {name}: {len(head)} unexpected, first {next(iter(head))}; expected no more keys"
        )
