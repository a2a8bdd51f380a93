"""`masksup export`: a run becomes one file, which is checked before it is there."""

import argparse
from dataclasses import replace
from pathlib import Path

from masksup.commands.options import add_model, model_of
from masksup.errors import UserError
from masksup.saved.running import add_running, running_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--format", choices=("onnx", "torch"), default="onnx", help="kind of file (default: onnx)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".onnx, or .pt2 of torch")
    parser.add_argument(
        "--precision", default="fp32", metavar="P", help="fp32 (default), fp16 or int8; several by commas, a file each"
    )
    parser.add_argument(
        "--opset",
        type=int,
        metavar="N",
        help="opset of the ONNX file, such as 18 (default: the one that torch's exporter chooses)",
    )
    parser.add_argument(
        "--check",
        nargs="+",
        default=[],
        metavar="IMAGES",
        help="images for the comparison with the model (default: evaluation images of the run)",
    )
    add_running(parser, device="cpu", batch="1, 3 and 8 in turn, of the check")


def run(args: argparse.Namespace) -> None:
    """Write `--out`, or one file a precision where several are asked for; print how far each is from the eager model.

    UserError leaves no file: what cannot be exported, or differs by more than the limits of masksup.export.check.
    """
    from masksup.base.log import start_logging
    from masksup.base.next_steps import tell_next
    from masksup.engine.precision import set_numerics
    from masksup.export.check import check_images
    from masksup.export.write import export, export_files
    from masksup.saved.open import open_trained

    path, running = model_of(args), running_of(args)
    start_logging()
    if running.device == "cuda":
        raise UserError("--device: found cuda, but a model is traced and checked on the CPU; expected cpu or auto")
    files = export_files(args.format, args.out, args.precision.split(","), args.opset)
    trained = open_trained(path, args.weights)
    set_numerics(replace(running, device="cpu").over(trained.config).precision)
    images = check_images(trained, args.check)
    if running.batch is not None:
        images = replace(images, batches=(running.batch,))
    for precision, file in files.items():
        export(trained, args.format, file, precision, args.opset, images)
    if args.format == "onnx":
        made = next(iter(files.values()))
        tell_next((("masksup-run", made, "PHOTOS", "--out", "labels.csv"), "labels by the file, without torch"))
