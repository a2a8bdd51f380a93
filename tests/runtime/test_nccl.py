"""NCCL never ends a rank by itself, and what it did last is kept: as far as that shows without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from masksup.base.place import Place
from masksup.config.schema import Parallel, Precision
from masksup.runtime import join, nccl

SWITCHED_OFF = ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ENABLE_MONITORING")
# A rank on a GPU that hangs: its watchdog ends it. What torch says of GPUs and of the process group is imitated.
HANGS = """
import sys, time
from pathlib import Path
import torch, torch.distributed as dist
from masksup.base.place import Place
from masksup.runtime.rendezvous import my_card
from masksup.runtime.watchdog import Watchdog
torch.cuda.is_available = dist.is_initialized = lambda: True
watchdog = Watchdog(dist.HashStore(), Place(), [my_card("")], 30)
watchdog.dump_to(Path(sys.argv[1]))
watchdog.beat("stepping", 0.2)
time.sleep(60)
"""


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("TORCH_NCCL_", "TORCH_FR_"))]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_variables")
@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_variables_are_set_before_the_process_group_is_made(on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_NCCL_ENABLE_MONITORING", "1")  # which a user has chosen
    monkeypatch.setattr(join, "_on_gpu", lambda _: on_gpu)
    monkeypatch.setattr(join, "take_gpu", lambda *_: None)
    seen: dict[str, str] = {}

    class Reached(Exception):
        pass

    def made(*_: object, **__: object) -> None:
        seen.update({name: value for name, value in os.environ.items() if name.startswith(("TORCH_NCCL", "TORCH_FR"))})
        raise Reached

    class Silent:
        def beat(self, *_: object) -> None:
            pass

    monkeypatch.setattr(dist, "init_process_group", made)
    with pytest.raises(Reached):
        join._form(Place(), Parallel(), Precision(), dist.HashStore(), Silent())  # type: ignore[arg-type]
    for name in seen:
        monkeypatch.delenv(name)
    if not on_gpu:
        assert seen == {"TORCH_NCCL_ENABLE_MONITORING": "1"}
        return
    assert [seen[name] for name in SWITCHED_OFF] == ["0", "1"]
    assert int(seen["TORCH_FR_BUFFER_SIZE"]) > 0


@pytest.mark.skipif(not dist.is_nccl_available(), reason="this torch has no NCCL")
def test_the_last_collectives_are_written_where_there_are_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nccl.dump(tmp_path / "rank0.nccl.json")
    assert not list(tmp_path.iterdir()), "there is nothing to tell without NCCL"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    nccl.dump(tmp_path / "rank0.nccl.json")
    assert "pg_status" in json.loads((tmp_path / "rank0.nccl.json").read_text())
    nccl.dump(tmp_path / "none" / "rank0.nccl.json")  # cannot be written, which is not why the rank ends


@pytest.mark.skipif(not dist.is_nccl_available(), reason="this torch has no NCCL")
def test_a_rank_that_hangs_leaves_stacks_and_collectives(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HANGS, str(tmp_path / "rank0.log")], timeout=100, capture_output=True)
    assert done.returncode == 1, done.stderr
    assert "most recent call first" in (tmp_path / "rank0.log").read_text()
    assert "pg_status" in json.loads((tmp_path / "rank0.nccl.json").read_text())
