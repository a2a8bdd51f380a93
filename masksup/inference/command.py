"""`masksup-run`: labels for images with an exported ONNX file, on a machine without torch."""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masksup import __version__
from masksup.base.csv_text import RAW_HELP
from masksup.data.decode_pil import BrokenImage
from masksup.data.url import Source
from masksup.errors import UserError
from masksup.exits import status_of
from masksup.inference.card import PRECISIONS
from masksup.inference.model_file import Device, Exported, open_exported
from masksup.inference.preprocess import load_image
from masksup.inference.timing import Clock, facts
from masksup.output.image_files import find_images
from masksup.output.labels import Row, check_out, print_labels, print_line, tell_unlabelled, write_scores
from masksup.saved.running import add_running, running_of


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for a mistake in the input."""
    args = _parser().parse_args(argv)
    return status_of("masksup-run", run, args)


def run(args: argparse.Namespace) -> int:
    """Print what decides, and `path prediction: dog,person` for every image, as `masksup predict` does.

    Unreadable images are named at the end and make the exit status 2; the others are labelled all the same.
    """
    running = running_of(args)
    device: Device = args.device or "cpu"
    threads, batch = running.threads or 0, running.batch or 1
    check_out(args.out)
    files = find_images(args.images)
    exported = open_exported(args.model, device, threads)
    card = exported.card
    if args.precision not in (None, card.precision):
        raise UserError(
            f"--precision: found {args.precision}, but {args.model} is {card.precision}; expected that, or another "
            "file (a precision is chosen by masksup export --precision)"
        )
    if card.facts.get("note"):
        print(f"about this model: {card.facts['note']}", file=sys.stderr)
    rows: list[Row] = []
    broken: list[str] = []
    line = card.decisions.line()
    clock, reader = Clock(), line is None or print_line(line)
    for file, scores_C in _labelled(files, exported, batch, broken, clock):
        rows.append((file, scores_C))
        reader = reader and print_labels(file, scores_C, card.decisions)
    tell_unlabelled(rows, card.decisions, args.out)
    if args.out is not None:
        made_by = {"model": str(args.model), "precision": card.precision}
        write_scores(args.out, rows, card.decisions, made_by, raw_csv=args.raw_csv)
    if args.benchmark:
        print("\n".join([*facts(exported, device, threads, batch), *clock.lines()]), file=sys.stderr)
    if broken:
        raise UserError("; ".join(broken))
    return 0


def _labelled(
    files: list[Source], exported: Exported, batch: int, broken: list[str], clock: Clock
) -> Iterator[tuple[Source, NDArray[np.float64]]]:
    """(file, probabilities of all classes); what cannot be read goes to `broken`."""
    decisions = exported.card.decisions
    for block in _prepared(files, exported, batch):
        broken.extend(block.broken)
        if not block.images:
            continue
        clock.add("preparation", block.seconds)
        with clock.part("inference"):
            logits_BC = exported.logits(np.stack(block.images))
        with clock.part("post-processing"):
            scores_BC = decisions.probabilities(logits_BC)
        clock.batch_done(len(block.images))
        yield from zip(block.files, scores_BC)


@dataclass
class _Block:
    """Images of a batch that could be read, and what became of the others. `seconds`: that preparing it took."""

    files: list[Source] = field(default_factory=list)
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0


def _prepared(files: list[Source], exported: Exported, batch: int) -> Iterator[_Block]:
    """The batches in order, each prepared by a thread of its own while the one before it is computed."""
    with ThreadPoolExecutor(1, "preparation") as pool:
        following: Future[_Block] | None = None
        for start in range(0, len(files), batch):
            block, following = following, pool.submit(_load, files[start : start + batch], exported)
            if block is not None:
                yield block.result()
        if following is not None:
            yield following.result()


def _load(files: list[Source], exported: Exported) -> _Block:
    block, began = _Block(), time.perf_counter()
    for file in files:
        try:
            block.images.append(load_image(file, exported.card.preprocessing))
            block.files.append(file)
        except BrokenImage as error:
            block.broken.append(str(error))
    block.seconds = time.perf_counter() - began
    return block


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="masksup-run", description="Label images with a file of `masksup export --format onnx`, without torch."
    )
    parser.add_argument("--version", action="version", version=f"masksup-run {__version__}")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="file of masksup export")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders, quoted globs, addresses; - lists them on standard input",
    )
    device = "cpu; cuda needs onnxruntime-gpu"
    add_running(parser, devices=("cpu", "cuda"), device=device, batch="1", threads="one a core")
    parser.add_argument("--precision", choices=PRECISIONS, help="refuse a file of another one")
    parser.add_argument("--out", type=Path, metavar="FILE.csv|.json", help="write all scores there")
    parser.add_argument("--raw-csv", action="store_true", help=RAW_HELP)
    parser.add_argument("--benchmark", action="store_true", help="print times an image and memory to standard error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
