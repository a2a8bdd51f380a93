"""Networks for the tests of heads, methods and exports."""

from typing import Any

from masksup.config.schema import ModelSettings
from masksup.models import network
from masksup.models.network import Network


def build_network(
    backbone: str, size: int, head_name: str, head_options: dict[str, Any], classes: int, **settings: Any
) -> Network:
    """With random weights; `settings` are others of `model`."""
    head = {"name": head_name, **head_options}
    return network.build_network(ModelSettings(backbone=backbone, size=size, head=head, **settings), classes)
