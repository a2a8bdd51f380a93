"""Images a second of an exported model by `masksup-run`, over a bare loop of PIL and ONNX Runtime."""

import csv
import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from masksup.engine.precision import set_numerics
from masksup.export.check import check_images
from masksup.export.write import export
from masksup.inference import command
from masksup.inference.model_file import Exported, open_exported
from masksup.inference.preprocess import load_image
from tools.speeds.evaluation import MOST, data_of, figures, trained_of
from tools.speeds.measured import Arm, Figure, Setting, interleaved
from tools.speeds.scenes import configured, index_of_photos

_BATCH = 8
_TIMES = 4  # that each photograph is labelled in a call: the file is opened in both, too


def running(setting: Setting) -> Iterator[Figure]:
    """The whole command, the opening of its file included, with one thread of ONNX Runtime.

    AssertionError unless its scores are those of the same session on the same pixels, and its labels with them.
    """
    index = index_of_photos(setting, 8 if setting.tiny else MOST)
    config = configured(setting, index, data=data_of(index, 0))
    set_numerics(config.precision)
    photographs = [Path(index.path(number)) for number in range(len(index))]
    model, table = setting.folder / "model.onnx", setting.folder / "labels.csv"
    trained = trained_of(config, index)
    export(trained, "onnx", model, "fp32", None, check_images(trained, list(map(str, photographs[:8]))))
    files = _copies(photographs, 1 if setting.tiny else _TIMES, setting.folder / "copies")
    _assert_the_same(model, files, table)
    bare = partial(_bare, model, files, config.model.size)
    arms: dict[str, Arm] = {"ours": partial(_run, model, files, table), "bare": bare, "bare again": bare}
    times = interleaved(arms, setting.rounds)
    yield from figures(f"masksup-run of {len(files)} photographs", times, len(files), 1)


def _copies(photographs: list[Path], times: int, folder: Path) -> list[Path]:
    """Links under other names: of a file that is named twice, the command would label one."""
    folder.mkdir()
    found = [folder / f"{time}-{file.name}" for time in range(times) for file in photographs]
    for link, file in zip(found, photographs * times):
        link.symlink_to(file)
    return found


def _run(model: Path, files: list[Path], table: Path) -> None:
    words = [str(model), *map(str, files), "--batch", str(_BATCH), "--threads", "1", "--out", str(table)]
    with redirect_stdout(io.StringIO()):
        assert command.main(words) == 0


def _bare(model: Path, files: list[Path], size: int) -> NDArray[np.bool_]:
    """As one would write it: nothing is checked, and PIL resizes, whose pixels are not quite those of the training."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    found = []
    for start in range(0, len(files), _BATCH):
        images = [_pixels(file, size) for file in files[start : start + _BATCH]]
        found.append(session.run(["logits"], {"images": np.stack(images)})[0])
    return np.asarray(1 / (1 + np.exp(-np.concatenate(found))) >= 0.5)


def _pixels(file: Path, size: int) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1)


def _assert_the_same(model: Path, files: list[Path], table: Path) -> None:
    _run(model, files, table)
    with table.open(encoding="utf-8") as lines:
        written = [row[1:] for row in csv.reader(lines)][1:]
    expected = [[f"{score:.6f}" for score in scores_C] for scores_C in _by_hand(open_exported(model, threads=1), files)]
    assert written == expected, "masksup-run says otherwise than its session of the same pixels"


def _by_hand(exported: Exported, files: list[Path]) -> NDArray[np.float64]:
    found = []
    for start in range(0, len(files), _BATCH):
        images = [load_image(file, exported.card.preprocessing) for file in files[start : start + _BATCH]]
        found.append(exported.card.decisions.probabilities(exported.logits(np.stack(images))))
    return np.concatenate(found)
