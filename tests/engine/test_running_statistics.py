"""Running statistics that follow micro-batches in order are those of one process that saw them one after the other."""

import copy

import pytest
import torch
from torch import nn

from masksup.engine.running_statistics import RunningStatistics


def network(momentum: float | None) -> nn.Sequential:
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d(4).eval()
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=momentum), frozen, nn.SyncBatchNorm(4).eval())


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("calls", [1, 3])
def test_they_are_those_of_torch(momentum: float | None, calls: int) -> None:
    """Over two steps of three micro-batches, in each of which the layer is called `calls` times."""
    net = network(momentum)
    torch_net, statistics = copy.deepcopy(net), RunningStatistics(net)
    assert statistics.layers == [net[1]], "those in eval mode keep theirs"
    for step in range(2):
        statistics.begin()
        rows = []
        for micro in range(3):
            statistics.clear()
            for call in range(calls):
                torch.manual_seed(100 * step + 10 * micro + call)
                images = 5 + torch.randn(2, 3, 6, 6)
                net(images)
                torch_net(images)
            rows.append(statistics.row())
        statistics.apply(torch.stack(rows))
    for name, value in torch_net.named_buffers():
        found = dict(net.named_buffers())[name]
        assert found.dtype == value.dtype
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)


def test_what_is_not_finite_moves_nothing() -> None:
    net = network(0.1)
    statistics = RunningStatistics(net)
    statistics.begin()
    statistics.clear()
    net(torch.full((1, 3, 2, 2), float("inf")))
    statistics.apply(statistics.row()[None])
    assert all(torch.isfinite(value).all() for value in net.buffers())
