"""Memory of CPU tensors, and what a configuration makes of determinism, TF32 and the memory of a GPU."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from masksup.base.place import ALONE
from masksup.config.schema import Config, Precision
from masksup.engine.build import new_network
from masksup.engine.parallel.engine import make_engine
from masksup.engine.parallel.zero import _Autocast
from masksup.engine.precision import set_numerics
from masksup.engine.step import Stepper
from masksup.errors import UserError
from masksup.methods.baseline import Baseline

CPU = torch.device("cpu")

FAULTS = """
import resource, torch
from masksup.config.schema import Precision
from masksup.engine.precision import set_numerics

def faults():
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun

plain = faults()
set_numerics(Precision(threads=1, device="cpu"))
faults()
print(plain, faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_large_tensors_reuse_their_memory() -> None:
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    plain, kept = map(int, out.split())  # a few pages are asked for where a small block took the start of a freed one
    assert kept * 10 < plain, "each new tensor asked the system for its pages"


class Puts(nn.Module):
    """A loss with an operator that has no deterministic form on any device."""

    def forward(self, logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
        return (logits_BC * targets_BC).mean()


def test_an_operator_without_a_deterministic_form_is_refused_by_name(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    method = Baseline(new_network(config, 5), Puts())
    stepper = Stepper(make_engine(config, method, CPU, torch.float32, ALONE), CPU, 0)
    numbers = torch.arange(4)
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    batch = {"image": images, "target": torch.ones(4, 5, dtype=torch.int8), "sample": numbers, "position": numbers}
    set_numerics(Precision(threads=1))
    with pytest.raises(UserError, match=r"found true, but put_ has no deterministic .*precision\.deterministic=false"):
        stepper.step([batch], 0, 0.5)
    set_numerics(Precision(threads=1, deterministic=False))
    stepper.step([batch], 0, 0.5)
    set_numerics(Precision(threads=1))


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_one_switch_for_convolutions_and_products(tf32: bool) -> None:
    set_numerics(Precision(threads=1, tf32=tf32))
    try:
        assert torch.backends.cudnn.allow_tf32 is tf32
        assert torch.backends.cuda.matmul.allow_tf32 is tf32
    finally:
        set_numerics(Precision(threads=1))


@pytest.mark.parametrize(("before", "after"), [({}, "expandable_segments:True"), ({"PYTORCH_ALLOC_CONF": ""}, "")])
def test_memory_of_a_gpu_grows_in_segments_unless_it_is_set(
    before: dict[str, str], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    set_numerics(Precision(threads=1, device="cpu"))
    assert os.environ.get("PYTORCH_ALLOC_CONF") == before.get("PYTORCH_ALLOC_CONF")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    set_numerics(Precision(threads=1))
    assert os.environ["PYTORCH_ALLOC_CONF"] == after


@pytest.mark.parametrize(("stage", "kept"), [(0, True), (2, True), (3, False)])
def test_zero_3_keeps_no_copies_of_the_parameters_it_gathers(
    stage: int, kept: bool, tiny_config: Callable[..., Config]
) -> None:
    seen = []

    class Asks(Baseline):
        def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            seen.append(torch.is_autocast_cache_enabled())
            return torch.zeros(()), {}

    method = Asks(new_network(tiny_config(), 5), nn.Identity())
    _Autocast(method, CPU, torch.bfloat16, stage)({})
    assert seen == [kept]
