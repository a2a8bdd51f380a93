"""What a line of a training costs: one question to the device, and the same numbers."""

import torch
from torch import Tensor

from masksup.training.loop_log import read_once


def test_all_numbers_of_a_step_are_read_at_once_and_are_what_each_alone_is(monkeypatch) -> None:
    logs = {
        "loss": torch.tensor([0.1, 2.0, float("nan")]), "loss_masked": torch.tensor([1 / 3, 1e-30, 7.0]),
        "gradient_norm": torch.tensor(float("inf")), "share": torch.tensor([0.3, 0.2], dtype=torch.bfloat16),
        "skipped_steps": torch.tensor(2**31 - 1, dtype=torch.int32), "exact": torch.tensor([0.1], dtype=torch.float64),
    }  # fmt: skip
    alone = {name: value.flatten().tolist() for name, value in logs.items()}
    asked = []
    for name in ("tolist", "item", "cpu", "numpy", "__float__", "__bool__", "__int__"):
        real = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda *a, real=real, name=name, **k: asked.append(name) or real(*a, **k))
    found = read_once(logs)
    assert asked == ["tolist"]
    assert list(found) == list(alone)
    assert str(found) == str({name: [float(value) for value in values] for name, values in alone.items()})
