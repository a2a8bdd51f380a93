"""Every registered head and method as an exported graph: the numbers of the model itself, for any batch size."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from networks import build_network
from torch import nn

from masksup.config.components import HEADS, METHODS
from masksup.decisions.decisions import default_decisions
from masksup.errors import UserError
from masksup.export import check as checks
from masksup.export.check import compare, eager_run, outputs_of, refuse_if_far
from masksup.export.onnx_model import quantised_products, serialise, to_int8, to_onnx
from masksup.export.trace import Deployed, in_half_precision, running_maximum, running_minimum, trace
from masksup.export.write import program_run, session_run
from masksup.inference.model_file import new_session
from masksup.methods.method import Method

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

C, SIZE = 5, 64


CASES: list[Any] = [
    # Short: every head is exported by tests/test_start_matrix.py too, and one method that looks twice.
    *(
        pytest.param(head, "baseline", {}, marks=[] if head in ("linear", "csra") else pytest.mark.slow)
        for head in HEADS.entries
    ),
    *(
        pytest.param("linear", method, {}, marks=[] if method == "masksup" else pytest.mark.slow)
        for method in METHODS.entries
        if method != "baseline"
    ),
    pytest.param(
        "linear", "masksup", {"base": {"name": "mcar", "top": 2, "compat": "original"}}, marks=pytest.mark.slow
    ),
]


def model(backbone: str, head: str, method: str, options: dict[str, Any]) -> Method:
    torch.manual_seed(0)
    network = build_network(backbone, SIZE, head, {}, C)
    with torch.no_grad():  # as they are first drawn, some networks hardly look at their image
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found: Method = METHODS.resolve(method)(network, nn.BCEWithLogitsLoss(), **options)
    return found.eval()


def images(count: int) -> torch.Tensor:
    """Blurred noise, in which regions have borders."""
    small = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(small, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return (255 * large).to(torch.uint8)


@pytest.mark.parametrize(("head", "method", "options"), CASES, ids=lambda value: str(value) or "default")
def test_every_head_and_method(head: str, method: str, options: dict[str, Any]) -> None:
    deployed = Deployed(model("test_resnet", head, method, options))
    program = trace(deployed, SIZE)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    written = to_onnx(program, deployed.outputs, None)
    onnx_bytes = serialise(written)
    buffer.seek(0)
    runs = (program_run(torch.export.load(buffer)), session_run(new_session(onnx_bytes, "cpu", 1, "x"), deployed))
    given, decisions = images(9), default_decisions([f"class {c}" for c in range(C)], 0.5)
    eager = outputs_of(eager_run(deployed), given, (9,))
    assert np.ptp(eager[0], axis=0).max() > 0.01, "all images look alike, so that nothing would be compared"
    for run in runs:
        check = compare(deployed, eager, outputs_of(run, given, (1, 3)), given, "noise", decisions, "fp32")
        refuse_if_far(check, "fp32")
        assert check.largest_difference <= 1e-4
        assert (check.moved is not None) == (method == "mcar" or "base" in options)
    if head == "csra" or method == "mcar":  # the products of CSRA cannot be quantised, which is told
        small = to_int8(written)
        assert (quantised_products(small) > 0) == (head == "linear")
        logits = outputs_of(session_run(new_session(serialise(small), "cpu", 1, "x"), deployed), given, (3,))[0]
        np.testing.assert_allclose(logits, eager[0], atol=0.3)


@pytest.mark.slow
def test_tokens_and_half_precision() -> None:
    """A transformer, and its backbone in fp16: near, not equal, with the head in fp32."""
    method = model("test_vit", "csra", "baseline", {})
    deployed, half = Deployed(method), Deployed(in_half_precision(method))
    given, decisions = images(4), default_decisions([f"class {c}" for c in range(C)], 0.5)
    eager = outputs_of(eager_run(deployed), given, (4,))
    found = {}
    for precision, module in (("fp32", deployed), ("fp16", half)):
        content = serialise(to_onnx(trace(module, SIZE), deployed.outputs, None))
        other = outputs_of(session_run(new_session(content, "cpu", 1, "x"), deployed), given, (1, 3))
        found[precision] = compare(deployed, eager, other, given, "noise", decisions, "fp32").largest_difference
    assert found["fp32"] <= 1e-5
    assert 1e-5 < found["fp16"] < 5e-3
    assert next(method.parameters()).dtype == torch.float32, "the model itself was converted"


@pytest.mark.parametrize("dim", [-1, 1])
def test_running_extrema_are_those_of_torch(dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for x in (torch.randint(-3, 4, (2, 7, 9), generator=generator), torch.randn(2, 1, 13, generator=generator)):
        for ours, theirs in ((running_maximum, torch.cummax), (running_minimum, torch.cummin)):
            values, places = ours(x, dim)
            expected = theirs(x, dim)
            assert torch.equal(values, expected.values)
            assert torch.equal(places, expected.indices)


def test_a_model_that_differs_is_refused() -> None:
    deployed = Deployed(model("test_resnet", "linear", "mcar", {"top": 2}))
    given, decisions = images(4), default_decisions([f"class {c}" for c in range(C)], 0.5)
    eager = outputs_of(eager_run(deployed), given)

    def judged(other: list[Any], precision: Any = "fp32") -> checks.Check:
        check = compare(deployed, eager, other, given, "noise", decisions, precision)
        refuse_if_far(check, precision)
        return check

    assert judged(list(eager)).lines()[0].endswith("100.00 % of the decisions agree")
    with pytest.raises(UserError, match=r"differs by 0\.\d+ in probability on noise, expected at most 0\.0001"):
        judged([eager[0] + 0.01, *eager[1:]])
    with pytest.raises(UserError, match="found NaN for class"):
        judged([np.full_like(eager[0], np.nan), *eager[1:]])
    with pytest.raises(UserError, match=r"--precision int8: \d+\.\d+ % of the decisions on noise agree"):
        judged([-eager[0] - 1, *eager[1:]], "int8")
    # Another region in one image: right numbers for that region are accepted, and it is told; wrong ones are not.
    boxes, classes = eager[1].copy(), eager[2]
    boxes[0, 0] = [0, 0, 8, 8]
    there = eager[0].copy()
    there[0] = deployed.with_regions(given[:1], torch.from_numpy(boxes[:1])).detach().numpy()[0]
    assert judged([there, boxes, classes]).moved == 1
    with pytest.raises(UserError, match="differs by"):
        judged([there + 0.01, boxes, classes])
    boxes[:] = [0, 0, 8, 8]
    there = deployed.with_regions(given, torch.from_numpy(boxes)).detach().numpy()
    with pytest.raises(UserError, match="looks at other regions in 4 of 4 images"):
        judged([there, boxes, classes])
