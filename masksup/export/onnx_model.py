"""A traced model as ONNX, in fp32, fp16 or int8."""

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from masksup.base.words import reason
from masksup.errors import UserError
from masksup.export.trace import with_known_operators
from masksup.inference.card import INPUT

OPSETS = (18, 23)  # what torch's exporter writes and onnxruntime runs
MOST_BYTES = 2**31 - 1  # of one protobuf message


def check_packages() -> None:
    """UserError where a package that writes ONNX is missing, before anything is computed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(name) is None:
            raise UserError(f"--format onnx: {name} is not installed, expected it: pip install 'masksup[export]'")


def to_onnx(program: ExportedProgram, outputs: tuple[str, ...], opset: int | None) -> Any:
    """An `onnx.ModelProto` in fp32. UserError if an operator or the opset cannot be written."""
    with _quiet():
        try:
            written = torch.onnx.export(
                with_known_operators(program), dynamo=True, input_names=[INPUT], output_names=list(outputs),
                opset_version=opset, verbose=False,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(f"--format onnx: torch cannot write this model: {_reason(error)}") from error
    assert written is not None
    model = written.model_proto
    found = {entry.domain: entry.version for entry in model.opset_import}[""]
    if opset is not None and found != opset:
        raise UserError(f"--opset: found {opset}, but the model could be written as opset {found} only")
    return model


def to_int8(model: Any) -> Any:
    """The model with its matrix products in int8, activations quantised as they come (dynamic quantisation).

    Convolutions stay in fp32: quantised like that they were several times slower on CPUs and far less exact
    (docs/export.md). The input stays uint8 and the logits fp32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet(), tempfile.TemporaryDirectory() as folder:
        whole, small = (str(Path(folder) / f"{name}.onnx") for name in ("whole", "small"))
        _own_weights(model.graph)
        del model.graph.value_info[:]  # shapes that the exporter noted contradict those that are inferred again
        onnx.save(model, whole)
        quantize_dynamic(
            whole, small, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"],
            # MCAR gathers classifiers, of which onnxruntime does not infer that they are floats.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
        return onnx.load(small)


def _own_weights(graph: Any) -> None:
    """Give each linear layer its own copy of a weight that several nodes share, as MCAR's two looks do: onnxruntime
    transposes the weight of a layer in place when it quantises it, and so would twice."""
    uses = Counter(name for node in graph.node for name in node.input)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for number, node in enumerate(node for node in graph.node if node.op_type == "Gemm"):
        name = node.input[1]
        if uses[name] > 1 and name in weights:
            own = graph.initializer.add()
            own.CopyFrom(weights[name])
            own.name = node.input[1] = f"{name}_of_layer_{number}"


def quantised_products(model: Any) -> int:
    """How many matrix products of a model are in int8."""
    return sum(node.op_type == "MatMulInteger" for node in model.graph.node)


def serialise(model: Any) -> bytes:
    """The bytes of a model. UserError if they are more than one file can hold."""
    if model.ByteSize() > MOST_BYTES:
        raise UserError(
            f"--format onnx: the model has {model.ByteSize() / 2**30:.1f} GiB, expected at most 2 GiB in one file; "
            "--precision fp16 halves it, and --format torch has no limit"
        )
    content: bytes = model.SerializeToString()
    return content


def _reason(error: BaseException) -> str:
    """The innermost cause, which says what is missing; the outer text is advice on reporting it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on what they do not simplify."""
    names = ("onnxscript", "onnx_ir", "torch.onnx", "root")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
