"""Every speed that this project promises, each beside its peer or the bare form, by one command.

    python -m tools.benchmark all [--only eval --only recording] [--rounds 5] [--json FILE] [--photos FOLDER]

Each row runs in a process of its own. Its sides take turns, and one of them runs twice: what that differs from itself
by is the floor of the noise. A row says a ratio, the median over the rounds, with its bound. `--photos` names a folder
of JPEGs (default: ../shared/data/coco_small/images/train where that is there, else drawn ones). `--minutes` (10) is
the most that all rows take together; what is left then is named.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from masksup.base.files import as_json
from tools.speeds.measured import Setting

# name: (function that measures it, rounds, what it is)
ROWS: dict[str, tuple[str, int, str]] = {
    "eval": ("evaluation:scoring", 3, "scoring over a bare loop"),
    "predict": ("evaluation:predicting", 1, "masksup predict of 1,000 photographs over a bare loop"),
    "exported": ("exported:running", 3, "masksup-run over PIL and an ONNX Runtime session"),
    "recording": ("recording:recording", 3, "records and pictures in a run of 20 ms steps"),
    "saving": ("recording:saving", 3, "a save of 300 MB"),
    "methods": ("steps:methods", 5, "MaskSup and MCAR over a plain step"),
    "shards": ("loading:smaller", 5, "shards of pixels and of smaller JPEGs over files"),
    "loop": ("loops:training", 5, "training with its loader over a bare loop"),
    "step": ("steps:plain", 5, "training step over a bare loop"),
    "loader": ("loading:loader", 5, "loader over PIL and torchvision v1"),
    "workers": ("loading:workers", 3, "loader threads over processes"),
    "start": ("start:starting", 3, "command to first step"),
    "map": ("scores:average", 5, "mAP over scikit-learn"),
    "counting": ("scores:counting", 3, "counting 10 million x 10,000 pairs"),
}
ELSEWHERE = {
    "gpu": "not run: tools/gpu_check.py",
    "lightly-train": "not run: no peer that trains multi-label classifiers is installed here",
}
_PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "coco_small" / "images" / "train"


def main(words: Sequence[str] | None = None) -> int:
    """Print the rows. Returns 1 where one failed, 0 otherwise: a bound that is missed is said, and no failure."""
    args = _arguments(words)
    if args.row is not None:
        return _measure(args)
    photos = args.photos or (_PHOTOS if _PHOTOS.is_dir() else None)
    print(f"{torch.get_num_threads()} CPUs, torch {torch.__version__}, photographs: {photos or 'drawn'}", flush=True)
    ends, found, failed = time.monotonic() + 60 * args.minutes, {}, False
    for name in args.only or ROWS:
        found[name] = _in_a_process(name, args, photos, ends - time.monotonic())
        failed |= isinstance(found[name], str) and not str(found[name]).startswith("not run")
        _show(name, found[name])
    for name, why in ELSEWHERE.items() if not args.only else ():
        _show(name, why)
    if args.json is not None:
        args.json.write_text(as_json(found, indent=1) + "\n", encoding="utf-8")
    return int(failed)


def _in_a_process(name: str, args: argparse.Namespace, photos: Path | None, left: float) -> list[dict[str, Any]] | str:
    """The figures of a row, or why there are none."""
    if left <= 0:
        return "not run: no time left (--minutes)"
    words = [sys.executable, "-m", "tools.benchmark", "all", "--row", name]
    words += ["--rounds", str(args.rounds or ROWS[name][1])] + (["--tiny"] if args.tiny else [])
    words += ["--photos", str(photos)] if photos else []
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        return "not run to its end: no time left (--minutes)"
    lines = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode:
        return f"failed: {' '.join(done.stderr.splitlines()[-1:])}"
    return [json.loads(line) for line in lines]


_MARK = "figure: "


def _measure(args: argparse.Namespace) -> int:
    module, _, function = ROWS[args.row][0].partition(":")
    rounds = args.rounds or ROWS[args.row][1]
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(rounds, Path(folder), args.photos, args.tiny)
        for figure in getattr(importlib.import_module(f"tools.speeds.{module}"), function)(setting):
            print(_MARK + json.dumps(figure.to_json()), flush=True)
    return 0


def _show(name: str, found: list[dict[str, Any]] | str) -> None:
    if isinstance(found, str):
        print(f"{name:14} {found}", flush=True)
        return
    for figure in found:
        bound = "" if figure["bound"] is None else f"  {' '.join(map(str, figure['bound']))} {figure['unit']}"
        judged = {None: "", True: "  met", False: "  NOT MET"}[figure["met"]]
        noise = "" if figure["noise"] is None else f"  (itself: {100 * figure['noise']:.1f} %)"
        print(f"{name:14} {figure['value']:8.3f} {figure['unit']}  {figure['what']}{noise}{bound}{judged}")
        for fact, value in figure["facts"].items():
            print(f"{'':14}   {fact}: {value}", flush=True)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("all",))
    parser.add_argument("--only", action="append", choices=tuple(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, help="of each row (default: 1 to 5, as the row needs)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="JPEGs to load")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--tiny", action="store_true", help="shows that the rows run; its figures mean nothing")
    parser.add_argument("--row", choices=tuple(ROWS), help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.rounds is not None and args.rounds < 1:
        parser.error(f"--rounds: found {args.rounds}, expected at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())
