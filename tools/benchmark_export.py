"""Exported files beside the model in torch: numbers on the evaluation split, and times side by side.

python -m tools.benchmark_export RUN... [--only numbers|times] [--rounds N]

numbers: of each run and precision the largest difference in probability and the mAP of all evaluation images, prepared
without torch, beside `masksup eval`. times: of the first run, batch x threads x precision, beside eager torch; the
contenders take turns within a round, and the fastest round of each counts.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masksup.data.split import Part
from masksup.errors import UserError
from masksup.evaluation.scores import evaluate
from masksup.export.check import check_images, eager_run, part_of
from masksup.export.trace import Deployed
from masksup.export.write import export
from masksup.inference.card import PRECISIONS, Precision
from masksup.inference.model_file import open_exported
from masksup.inference.preprocess import load_image
from masksup.metrics.pairs import probabilities
from masksup.metrics.summary import score
from masksup.saved.open import open_trained
from masksup.saved.outputs import predict_alone

BATCHES = (1, 8)


def main() -> int:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--only", choices=("numbers", "times"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default=",".join(PRECISIONS))
    args = parser.parse_args()
    wanted: list[Precision] = [name for name in PRECISIONS if name in args.precision.split(",")]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "times":
            print("| run | precision | MB | largest difference | decisions that agree | mAP, eval | mAP, file |")
            print("|---|---|---|---|---|---|---|")
            for run in args.runs:
                for row in numbers(run, wanted, Path(folder)):
                    print(f"| {' | '.join(row)} |", flush=True)
        if args.only != "numbers":
            times(args.runs[0], wanted, Path(folder), args.rounds)
    return 0


def numbers(run: Path, precisions: list[Precision], folder: Path) -> list[list[str]]:
    """A row of the table for each precision."""
    trained = open_trained(run)
    part = part_of(trained)
    outputs = predict_alone(trained, part)
    expected = evaluate(outputs, part, trained.config)["mAP"]
    theirs = probabilities(outputs.logits_NC)
    rows = []
    for precision in precisions:
        file = folder / f"{precision}.onnx"
        try:
            check = export(trained, "onnx", file, precision, None, check_images(trained, ()))
        except UserError as error:
            rows.append([run.parent.name, precision, str(error), "", "", "", ""])
            continue
        logits_NC = _logits(file, part)
        found = score(logits_NC, part.labels_NC, part.index.classes)["mAP"]
        apart = np.abs(probabilities(logits_NC) - theirs).max()
        agree = ((logits_NC >= 0) == (theirs >= 0.5)).mean()
        moved = f" ({check.moved} of {check.images} with another region)" if check.moved else ""
        size, share = f"{file.stat().st_size / 1e6:.1f}", f"{100 * agree:.2f} %"
        rows.append([run.parent.name, precision, size, f"{apart:.1e}{moved}", share, f"{expected:.3f}", f"{found:.3f}"])
    return rows


def _logits(file: Path, part: Part) -> NDArray[np.float32]:
    exported = open_exported(file, threads=1)
    files = [part.index.path(int(sample)) for sample in part.samples]
    found = []
    for start in range(0, len(files), 8):
        images = [load_image(path, exported.card.preprocessing) for path in files[start : start + 8]]
        found.append(exported.logits(np.stack(images)))
    return np.concatenate(found)


def times(run: Path, precisions: list[Precision], folder: Path, rounds: int) -> None:
    """The table of times: ms an image and how many times as fast as eager torch with as many threads."""
    trained = open_trained(run)
    images = check_images(trained, ())
    deployed = Deployed(trained.method).eval()
    for precision in precisions:
        export(trained, "onnx", folder / f"{precision}.onnx", precision, None, images)
    print(f"\n{run.parent.name}, {trained.config.model.backbone}, {trained.config.model.size} px, ms an image:\n")
    print(f"| threads | batch | eager torch | {' | '.join(precisions)} |")
    print("|---|---|---|" + "---|" * len(precisions))
    for threads, batch in itertools.product((1, 2), BATCHES):
        torch.set_num_threads(threads)
        pixels = images.images_N3SS[:batch].contiguous().numpy()
        contenders: dict[str, Callable[[], Any]] = {"eager": _call(eager_run(deployed), pixels)}
        for precision in precisions:
            exported = open_exported(folder / f"{precision}.onnx", threads=threads)
            contenders[precision] = _call(exported.logits, pixels)
        best = fastest(contenders, rounds)
        eager = best["eager"]
        cells = [f"{1000 * best[name] / batch:.1f} ({eager / best[name]:.1f}x)" for name in precisions]
        print(f"| {threads} | {batch} | {1000 * eager / batch:.1f} | {' | '.join(cells)} |", flush=True)


def _call(function: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    return lambda: function(argument)


def fastest(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of the fastest round of each, after one that sets up."""
    best = dict.fromkeys(contenders, float("inf"))
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if turn:
                best[name] = min(best[name], time.perf_counter() - began)
    return best


if __name__ == "__main__":
    sys.exit(main())
