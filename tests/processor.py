"""What some tests need of the processor."""

import pytest
import torch

# The reader of exported files repeats the resizing that torch does with AVX2 or AVX-512.
avx2 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch resizes otherwise without AVX2"
)
