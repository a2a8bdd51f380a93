"""How far it is from a command to the network: every frame of ours is one that a reader of a traceback has to pass."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from masksup.cli import main
from masksup.config.load import to_yaml
from masksup.config.schema import Config
from masksup.models.network import Network

PACKAGE = str(Path(__file__).parents[1] / "masksup")


@pytest.mark.parametrize("order", ["tree", "ring"])
def test_few_frames_lie_between_a_command_and_the_network(
    order: str, tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.yaml").write_text(to_yaml(tiny_config(epochs=0.6, data__eval=None, parallel__sum=order)))
    found: list[list[str]] = []
    real = Network.forward

    def forward(network: Network, *given: Any) -> Any:
        found.append([frame.name for frame in traceback.extract_stack()[:-1] if frame.filename.startswith(PACKAGE)])
        return real(network, *given)

    monkeypatch.setattr(Network, "forward", forward)
    assert main(["train", str(tmp_path / "c.yaml"), "--run-dir", str(tmp_path / "run")]) == 0
    names = [*found[0], "forward"]
    assert len(names[names.index("main") + 1 :]) <= 8, names
    assert len(names[names.index("train") + 1 :]) <= 5, names
