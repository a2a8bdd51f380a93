"""Writing an exported model: traced, checked against the model itself, sealed, and whole or not there."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from masksup.base.files import refuse_unwritable, to_disk, written_whole
from masksup.base.log import log
from masksup.base.words import counted
from masksup.errors import UserError
from masksup.export import onnx_model
from masksup.export.card import card_of
from masksup.export.check import Arrays, Check, Images, Runner, compare, eager_run, outputs_of, refuse_if_far
from masksup.export.trace import Deployed, in_half_precision, trace
from masksup.inference.card import INPUT, KEY, PRECISIONS, Card, Precision
from masksup.inference.model_file import new_session, open_exported, seal
from masksup.saved.decisions_of import decisions_for
from masksup.saved.open import Trained

Format = Literal["onnx", "torch"]
EXTRA_FILE = "masksup.json"  # the card in a .pt2
_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def export_files(kind: Format, out: Path, precisions: Sequence[str], opset: int | None) -> dict[Precision, Path]:
    """The file of each precision: `out`, or, of several, `out` with the precision in its name.

    UserError for what cannot be written there, in this format or without a package that is missing.
    """
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


def export(
    trained: Trained, kind: Format, file: Path, precision: Precision, opset: int | None, images: Images
) -> Check:
    """Write one file, checked on the images. What was found."""
    decisions = decisions_for(trained)
    deployed = Deployed(trained.method.cpu()).eval()
    traced = Deployed(in_half_precision(trained.method)) if precision == "fp16" else deployed
    program = trace(traced, trained.config.model.size)

    def judged(run: Runner) -> Check:
        eager, other = (outputs_of(one, images.images_N3SS, images.batches) for one in (eager_run(deployed), run))
        check = compare(deployed, eager, other, images.images_N3SS, images.source, decisions, precision)
        refuse_if_far(check, precision)
        return check

    if kind == "torch":
        check = judged(program_run(program))
        content = _pt2(program, card_of(trained, decisions, precision, check, None))
    else:
        model = onnx_model.to_onnx(program, deployed.outputs, opset)
        if precision == "int8":
            model = _in_int8(model)
        check = judged(
            session_run(new_session(onnx_model.serialise(model), "cpu", torch.get_num_threads(), str(file)), deployed)
        )
        written = {entry.domain: entry.version for entry in model.opset_import}[""]
        content = _sealed(model, card_of(trained, decisions, precision, check, written))
    _publish(file, content, kind)
    log.info(f"{file}: {kind}, {precision}, {len(content) / 1e6:.1f} MB, {counted(len(trained.classes), 'class')}")
    for line in check.lines():
        log.info(f"  {line}")
    return check


def _in_int8(model: Any) -> Any:
    """Quantised, with a warning where that changes little."""
    small = onnx_model.to_int8(model)
    if onnx_model.quantised_products(small) == 0:
        log.warning("--precision int8: no matrix product of this model can be quantised; the file computes in fp32")
    share = small.ByteSize() / model.ByteSize()
    if share > 0.75:
        log.warning(
            f"--precision int8: the file is {100 * share:.0f} % as large as fp32: only matrix products become int8, "
            "and most weights of this network are in convolutions; expected fp16 for a smaller file"
        )
    return small


def session_run(session: Any, deployed: Deployed) -> Runner:
    """An onnxruntime session of an exported model, as `outputs_of` takes it."""
    return lambda images_N3SS: session.run(list(deployed.outputs), {INPUT: images_N3SS})


def program_run(program: ExportedProgram) -> Runner:
    """A traced program, alike."""
    module = program.module()

    def run(images_N3SS: NDArray[np.uint8]) -> Arrays:
        with torch.inference_mode():
            return [output.numpy() for output in module(torch.from_numpy(images_N3SS))]

    return run


def _sealed(model: Any, card: Card) -> bytes:
    """The model with its card in its metadata and, last, the checksum of all of it."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, card.to_text()
    model.producer_name = "masksup"
    content = onnx_model.serialise(model)
    return content + seal(content)


def _pt2(program: ExportedProgram, card: Card) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={EXTRA_FILE: card.to_text()})
    return buffer.getvalue()


def _publish(file: Path, content: bytes, kind: Format) -> None:
    """Write under another name, read it back as a user would, rename: a file is whole or not there."""
    with written_whole(file, file.suffix) as partial:
        with partial.open("wb") as stream:
            stream.write(content)
            to_disk(stream)
        if kind == "onnx":
            open_exported(partial)
