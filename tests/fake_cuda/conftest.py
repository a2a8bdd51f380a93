"""The fake device, in a process of its own: its driver has to be there before torch is imported."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

Ask = Callable[[dict[str, Any]], dict[str, Any]]
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def fake_cuda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Send a request to tests/fake_cuda/server.py and get its answer: what was `found`, and the `operators` seen."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc or gcc) for the stub of a CUDA driver")
    if torch.version.cuda is None:
        pytest.skip("this torch is built without CUDA")
    stub = tmp_path_factory.mktemp("fake_cuda") / "libcuda.so.1"
    flags = ["-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *flags, "-o", stub, HERE / "driver_stub.c"], check=True)
    with subprocess.Popen(
        [sys.executable, HERE / "server.py", stub], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
    ) as server:  # fmt: skip
        assert server.stdin is not None
        assert server.stdout is not None
        stdin, stdout = server.stdin, server.stdout
        assert stdout.readline() == "ready\n", "the fake device did not start"

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            print(json.dumps(request), file=stdin, flush=True)
            answer: dict[str, Any] = json.loads(stdout.readline())
            return answer

        yield ask
        stdin.close()
        server.wait(30)
