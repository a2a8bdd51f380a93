"""`masksup import`: a checkpoint of the CSRA, MSL, MCAR, Puzzle-CAM or OASS projects becomes a run folder."""

import argparse
import math
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

from masksup.base.words import counted
from masksup.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Turn a checkpoint of CSRA, MSL, MCAR, Puzzle-CAM or OASS into a run folder. The kind of file, backbone, "
        "classes and heads are read from its tensors; what it cannot tell has to be given."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=".pth, .pt, .tar, .safetensors or .pdparams")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder to write; must be new")
    parser.add_argument("--preset", metavar="NAME", help="settings of a released file, e.g. msl_c_coco, or an MCAR "
                        "training folder's name, e.g. voc2007-resnet101-gwp-448-4-0.5")  # fmt: skip
    parser.add_argument(
        "--classes", metavar="voc|coco|coco-alphabetical|wider|FILE|A,B,C", help="class names, in order"
    )
    parser.add_argument("--size", type=_count, metavar="PX", help="side of the square input")
    parser.add_argument("--normalization", choices=("none", "half", "imagenet"),
                        help="mean and std of pixels in 0..1: none (0, 1), half (0.5, 0.5), imagenet")  # fmt: skip
    parser.add_argument("--mean", type=_three, metavar="R,G,B", help="instead of --normalization, with --std")
    parser.add_argument("--std", type=_three, metavar="R,G,B", help="instead of --normalization, with --mean")
    parser.add_argument("--lam", type=_share, metavar="L", help="CSRA: weight of the attention, the paper's lambda")
    parser.add_argument("--pool", choices=("avg", "max", "gwp"), help="MCAR: pooling")
    parser.add_argument("--top", type=_count, metavar="N", help="MCAR: regions an image (topN)")
    parser.add_argument("--threshold", type=_finite, metavar="T", help="MCAR: where attention is cut, 0..1")
    parser.add_argument("--assume-layout", action="store_true", help="CSRA's ViT for COCO at 448: import it though "
                        "its network is not known; the assumptions are printed and stored")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Read, ask for what is missing, check, write, say what was done."""
    from masksup.base.files import naming
    from masksup.models.originals.contents import read_original
    from masksup.models.originals.settings import settle
    from masksup.saved.import_original import prepare_import, write_import

    found = read_original(args.file, assume_layout=args.assume_layout)
    if args.assume_layout and not found.assumed:
        raise UserError(f"--assume-layout: nothing has to be assumed of {args.file} ({found.summary}); leave it out")
    settings = settle(found, _given(args), args.preset)
    out = args.out.resolve()
    imported = prepare_import(found, settings, out)
    with naming(out):
        write_import(imported, out)
    print(f"{args.file}: {found.summary}")
    model = imported.config.model
    print(f"  network: {model.backbone}, {model.size} px, mean {model.mean}, std {model.std}")
    print(f"  head: {_options(model.head)}   method: {_options(imported.config.method)}")
    print(f"  tensors: {len(found.trunk)} of the backbone, {len(found.heads)} of the head")
    for change in imported.changed:
        print(f"  changed: {change}")
    by_reason: dict[str, list[str]] = defaultdict(list)
    for key, why in found.dropped.items():
        by_reason[why].append(key)
    for why, keys in by_reason.items():
        print(f"  dropped, {why} ({len(keys)}): {', '.join(keys)}")
    for assumption in found.assumed:
        print(f"  assumed, not known: {assumption}")
    print(f"  run folder: {args.out}    score it: masksup eval {shlex.quote(str(args.out))} --data INDEX")


def _options(part: Any) -> str:
    options = {key: value for key, value in part.options.items() if value is not None}
    return " ".join([part.name, *(f"{key}={value}" for key, value in options.items())])


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings given as options, by the names of `settings.SETTINGS`."""
    if (args.mean is None) != (args.std is None):
        raise UserError("--mean and --std: found one of them, expected both or neither")
    if args.mean is not None and args.normalization is not None:
        raise UserError("--normalization: found it together with --mean and --std, expected one or the other")
    given = {
        name: getattr(args, name) for name in ("lam", "pool", "top", "threshold", "size", "normalization", "classes")
    }
    if args.mean is not None:
        given["normalization"] = {"mean": list(args.mean), "std": list(args.std)}
    return {name: value for name, value in given.items() if value is not None}


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"found {text}, expected a finite number")
    return value


def _share(text: str) -> float:
    value = _finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected 0 or more")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number above 0")
    return int(text)


def _three(text: str) -> tuple[float, ...]:
    values = tuple(_finite(part) for part in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"found {counted(len(values), 'value')}, expected three")
    return values
