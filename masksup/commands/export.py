"""`masksup export`: a run becomes one file, which is checked before it is there."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from masksup.base.files import refuse_unwritable
from masksup.base.log import start_logging
from masksup.engine.precision import set_numerics
from masksup.errors import UserError
from masksup.export import onnx_model
from masksup.export.check import BATCHES, check_images
from masksup.export.write import Format, export
from masksup.inference.card import PRECISIONS, Precision
from masksup.saved.open import WhichWeights, open_trained
from masksup.saved.running import AS_TRAINED, Running

_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def run_export(
    path: Path, weights: WhichWeights, kind: Format, out: Path, precisions: Sequence[str], opset: int | None,
    images: Sequence[str], running: Running = AS_TRAINED,
) -> int:  # fmt: skip
    """Write `out`, or one file a precision where several are asked for; print how far each is from the eager model.

    UserError leaves no file: what cannot be exported, or differs by more than the limits of masksup.export.check.
    """
    start_logging()
    if running.device == "cuda":
        raise UserError("--device: found cuda, but a model is traced and checked on the CPU; expected cpu or auto")
    files = _files(kind, out, precisions, opset)
    trained = open_trained(path, weights)
    set_numerics(replace(running, device="cpu").over(trained.config).precision)
    images_N3SS, source = check_images(trained, images)
    batches = BATCHES if running.batch is None else (running.batch,)
    for precision, file in files.items():
        export(trained, kind, file, precision, opset, images_N3SS, source, batches)
    return 0


def _files(kind: Format, out: Path, precisions: Sequence[str], opset: int | None) -> dict[Precision, Path]:
    """The file of each precision: `out`, or, of several, `out` with the precision in its name."""
    wanted = [precision for precision in PRECISIONS if precision in precisions]
    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown or not wanted:
        raise UserError(f"--precision: found '{','.join(precisions)}', expected some of {', '.join(PRECISIONS)}")
    if kind == "torch" and wanted != ["fp32"]:
        raise UserError(
            f"--precision: found {','.join(wanted)} with --format torch, expected fp32; "
            "fp16 and int8 are written by --format onnx"
        )
    if kind == "torch" and opset is not None:
        raise UserError("--opset: found with --format torch, expected --format onnx")
    first, last = onnx_model.OPSETS
    if opset is not None and not first <= opset <= last:
        raise UserError(f"--opset: found {opset}, expected {first} to {last}")
    if out.suffix != _SUFFIXES[kind]:
        raise UserError(f"--out: found '{out.name}', expected a name that ends in {_SUFFIXES[kind]}")
    if out.is_dir():
        raise UserError(f"--out: {out} is a folder, expected a file name")
    refuse_unwritable(out.parent)
    if kind == "onnx":
        onnx_model.check_packages()
    if len(wanted) == 1:
        return {wanted[0]: out}
    return {precision: out.with_name(f"{out.stem}_{precision}{out.suffix}") for precision in wanted}
