"""What preflight says of GPUs, with a driver and a torch that are imitated: N/A, MIG, GPUs that fail."""

import os
from pathlib import Path

import pytest
import torch

from launch.start import preflight
from launch.start.fitness import problems
from masksup.base.place import ALONE, Place

VERSION = (
    "NVRM version: NVIDIA UNIX {}x86_64 Kernel Module{}  580.65.06  Sun Jul 27 07:10:26 UTC 2025\nGCC version: 13\n"
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A driver, one GPU with 1 of 80 GiB in use, given by SLURM, and an nvidia-smi without words."""
    driver, folder = tmp_path / "version", tmp_path / "bin"
    driver.write_text(VERSION.format("", ""))
    folder.mkdir()
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho '580.65.06, [N/A]'\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-4a5b0f2e-0000-0000-0000-000000000000")
    monkeypatch.setattr(preflight, "_DRIVER", driver, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (79 << 30, 80 << 30))
    return monkeypatch


def test_memory_that_nvidia_smi_does_not_tell_and_mig_condemn_no_node(machine, tmp_path: Path) -> None:
    card = preflight.look_around(ALONE, tmp_path, [])
    assert (card.driver, card.gpus, card.asked_gpus, card.busy_mib) == ("580.65.06", 1, 1, 1024.0)
    assert problems([card]) == {}


@pytest.mark.parametrize(("kind", "where"), [("Open ", " for x86_64"), ("", "")])
def test_both_drivers_tell_their_version(kind: str, where: str, machine, tmp_path: Path) -> None:
    preflight._DRIVER.write_text(VERSION.format(kind, where))
    assert preflight.look_around(ALONE, tmp_path, []).driver == "580.65.06"


def test_a_gpu_that_fails_or_is_missing_condemns_its_node(machine, tmp_path: Path) -> None:
    def fails(gpu: int) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCompile with ...")

    machine.setattr(torch.cuda, "device_count", lambda: 0)
    (found,) = problems([preflight.look_around(ALONE, tmp_path, [])]).values()
    assert found == ["GPUs: found 0, SLURM gave 1"]
    machine.setattr(torch.cuda, "device_count", lambda: 1)
    machine.setattr(torch.cuda, "mem_get_info", fails)
    (found,) = problems([preflight.look_around(ALONE, tmp_path, [])]).values()
    assert found == ["GPUs do not answer: CUDA error: uncorrectable ECC error encountered"]


def test_a_node_without_a_driver_is_not_looked_at(machine, tmp_path: Path) -> None:
    preflight._DRIVER.unlink()
    card = preflight.look_around(Place(), tmp_path, [])
    assert (card.driver, card.gpus) == (None, 0)
    assert problems([card]) == {}
