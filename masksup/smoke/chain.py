"""`masksup smoke`: tiny data -> train -> evaluate -> export -> a matrix of inferences, and the numbers of each.

Everything lies in a folder of its own that is removed at the end; data, runs and files of the user are not opened.
"""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from masksup.base.fitted import fitted
from masksup.base.log import console, log
from masksup.base.words import counted
from masksup.data.index import Index, open_index
from masksup.data.shapes import prepare_shapes
from masksup.data.split import Part
from masksup.data.write_index import write_index
from masksup.errors import JobError, UserError
from masksup.evaluation.scores import evaluate
from masksup.export.check import Arrays, Check, check_images, compare, eager_run, outputs_of, refuse_if_far
from masksup.export.onnx_model import check_packages
from masksup.export.trace import Deployed
from masksup.export.write import export, session_run
from masksup.inference.card import PRECISIONS, Precision
from masksup.inference.model_file import Device, import_onnxruntime, open_exported
from masksup.inference.preprocess import load_image
from masksup.metrics.summary import score
from masksup.saved.decisions_of import decisions_for
from masksup.saved.open import Trained, open_trained
from masksup.saved.outputs import predict_alone
from masksup.smoke.shrink import BATCH, SIZE, shrunk
from masksup.training.train import train

BATCHES = (1, 3)
IMAGES = 6  # that are scored


@dataclass(frozen=True)
class Trial:
    """One way to run the model, and what came of it."""

    precision: Precision
    device: Device
    threads: int
    batch: int
    check: Check
    mean_ap: float
    ms: float


def run_smoke(file: Path) -> dict[str, Any]:
    """Run the chain for the configuration in `file`. UserError if the configuration is wrong; JobError, naming the
    numbers, if two parts of the chain disagree. Returns what was found, ready for JSON."""
    check_packages()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="masksup-smoke-") as folder:
        data = Path(folder) / "data"
        for content in prepare_shapes(data / "root", train=2 * BATCH, val=IMAGES, test=IMAGES, size=SIZE, seed=3):
            write_index(data / content.split, content)
        config, run = shrunk(file, data), Path(folder) / "run"
        if train(config, run) != 0:
            raise JobError("smoke: the training was stopped")
        trained = open_trained(run)
        index = open_index(data / "val")
        expected = _evaluated(trained, index, json.loads((run / "result.json").read_text(encoding="utf-8")))
        cells = _matrix(trained, index, Path(folder), expected)
    console.print(fitted(_table(cells, file.stem), console.width), soft_wrap=False)
    log.info(
        f"smoke: {file.name} trained, scored (mAP {expected:.2f}), exported and run in {len(cells)} ways, in "
        f"{time.monotonic() - began:.0f} s"
    )
    return {"config": str(file), "mAP": expected, "ways": [_row(cell) for cell in cells]}


def _row(cell: Trial) -> dict[str, Any]:
    return {
        "precision": cell.precision, "device": cell.device, "threads": cell.threads, "batch": cell.batch,
        "ms_per_image": cell.ms, "furthest": cell.check.largest_difference, "decisions": cell.check.agreement,
        "mAP": cell.mean_ap,
    }  # fmt: skip


def _evaluated(trained: Trained, index: Index, result: dict[str, Any]) -> float:
    """The mAP of the saved weights, which has to be that of the training's own scoring."""
    part = Part(index)
    found = evaluate(predict_alone(trained, part), part, trained.config)["mAP"]
    told = result["best" if "best" in result else "last"]["eval"]["mAP"]
    _agree("mAP of the saved weights", found, "mAP at the end of the training", told, 1e-9)
    return float(found)


def _matrix(trained: Trained, index: Index, folder: Path, mean_ap: float) -> list[Trial]:
    """Every precision, device, number of threads and batch size, each held against the model in torch."""
    images, cells = check_images(trained, ()), []
    for precision in PRECISIONS:
        file = folder / f"{precision}.onnx"
        export(trained, "onnx", file, precision, None, images)
        deployed = Deployed(trained.method).eval()
        rules = open_exported(file).card.preprocessing
        files_N3SS = torch.stack([torch.from_numpy(load_image(index.path(n), rules)) for n in range(len(index))])
        eager = outputs_of(eager_run(deployed), files_N3SS)
        for device, threads, batch in itertools.product(_devices(), _threads(), BATCHES):
            run = session_run(open_exported(file, device, threads).session, deployed)
            began = time.perf_counter()
            other = outputs_of(run, files_N3SS, (batch,))
            ms = 1000 * (time.perf_counter() - began) / len(files_N3SS)
            check = compare(deployed, eager, other, files_N3SS, images.source, decisions_for(trained), precision)
            cell = Trial(precision, device, threads, batch, check, _mean_ap(other, index, trained), ms)
            _judge(cell, mean_ap)
            cells.append(cell)
    return cells


def _judge(cell: Trial, mean_ap: float) -> None:
    """JobError, naming the way of running, if its numbers are not those of the model."""
    way = f"{cell.precision}, {cell.device}, {counted(cell.threads, 'thread')}, batch {cell.batch}"
    try:
        refuse_if_far(cell.check, cell.precision)
    except UserError as error:
        raise JobError(f"smoke: {way}: {error}") from None
    if cell.precision == "fp32" and not cell.check.moved:
        _agree(f"mAP of {way}", cell.mean_ap, "mAP of masksup eval", mean_ap, 1e-4)


def _agree(name: str, found: float, other_name: str, expected: float, within: float) -> None:
    if not abs(found - expected) <= within:
        raise JobError(f"smoke: {name} is {found}, but {other_name} is {expected}; expected them within {within:g}")


def _mean_ap(outputs: Arrays, index: Index, trained: Trained) -> float:
    rules = trained.config.eval
    summary = score(
        outputs[0], np.asarray(index.labels_NC), index.classes, ap_rule=rules.ap_rule,
        threshold=rules.threshold, compat=rules.compat,
    )  # fmt: skip
    return float(summary["mAP"])


def _devices() -> tuple[Device, ...]:
    providers = import_onnxruntime().get_available_providers()
    return ("cpu", "cuda") if "CUDAExecutionProvider" in providers else ("cpu",)


def _threads() -> tuple[int, ...]:
    return (1, 2) if len(os.sched_getaffinity(0)) > 1 else (1,)


def _table(cells: Sequence[Trial], name: str) -> Table:
    table = Table(title=f"{name}: exported and run", title_justify="left")
    for column in ("precision", "device", "threads", "batch", "ms/image", "furthest", "decisions", "mAP"):
        table.add_column(column, justify="left" if column in ("precision", "device") else "right")
    for cell in cells:
        table.add_row(
            cell.precision, cell.device, str(cell.threads), str(cell.batch), f"{cell.ms:.2f}",
            f"{cell.check.largest_difference:.1e}", f"{100 * cell.check.agreement:.1f} %", f"{cell.mean_ap:.2f}",
        )  # fmt: skip
    return table
