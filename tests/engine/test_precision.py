"""Memory of CPU tensors."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from masksup.config import Precision
from masksup.engine.precision import set_numerics

def faults():
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun

plain = faults()
set_numerics(Precision(threads=1, device="cpu"))
faults()
print(plain, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_large_tensors_reuse_their_memory() -> None:
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    plain, kept = map(int, out.split())
    assert kept * 10 < plain, "each new tensor asked the system for its pages"
